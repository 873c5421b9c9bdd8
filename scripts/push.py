"""Put a finished model folder on the Hugging Face Hub, as one commit.

python scripts/push.py runs/indonlu me/indobert-smsa
"""

import argparse

from smsa.cli import exit_on_error
from smsa.sharing.hub import push


def main(args: argparse.Namespace) -> None:
    """Push the folder, and print the address of the commit or pull request."""
    address = push(args.folder, args.repo_id, args.private, args.revision, args.tag, args.pull_request)
    print(f"{args.folder} is {'proposed' if args.pull_request else 'on the Hub'}: {address}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("folder", help="Folder of a finished run of scripts/finetune.py or pretrain.py.")
    parser.add_argument("repo_id", help="Name on the Hub: NAMESPACE/NAME, or a name in your own namespace.")
    parser.add_argument("--private", action="store_true", help="Make a new repository private.")
    parser.add_argument("--revision", help="Branch to commit to, created if missing; default: main.")
    parser.add_argument("--tag", help="Tag for the commit.")
    parser.add_argument("--pull_request", action="store_true", help="Propose the commit instead of making it.")
    with exit_on_error():
        main(parser.parse_args())
