"""Put a finished model folder on the Hugging Face Hub, as one commit.

python scripts/push.py runs/indonlu me/indobert-smsa
"""

import argparse
import logging

import huggingface_hub

from smsa.sharing.hub import push


def main(folder: str, repo_id: str, **options: object) -> str:
    """Push as `smsa.sharing.hub.push` does, and print the address of the commit.

    Raises:
        SystemExit: with status 1 and the reason; the folder stays as it is.
    """
    try:
        address = push(folder, repo_id, **options)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    print(f"{folder} is {'proposed' if options.get('pull_request') else 'on the Hub'}: {address}")
    return address


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    huggingface_hub.logging.set_verbosity_error()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("folder", help="Folder that scripts/finetune.py has finished.")
    parser.add_argument("repo_id", help="Name on the Hub: NAMESPACE/NAME, or a name in your own namespace.")
    parser.add_argument("--private", action="store_true", help="Make a new repository private.")
    parser.add_argument("--revision", help="Branch to commit to, made if there is none; main if not given.")
    parser.add_argument("--tag", help="Name for the commit.")
    parser.add_argument(
        "--pull_request", action="store_true", help="Propose the commit to the main branch instead of making it."
    )
    main(**vars(parser.parse_args()))
