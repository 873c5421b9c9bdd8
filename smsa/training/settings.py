from smsa.errors import UserError

"""Settings: all on which the result of a run depends, but for hardware and versions; a run goes on under the same."""

_NOT_SETTINGS = ("hardware", "output", "Hub")  # groups that do not matter to the result of a run
_PATHS = {"data_dir", "train_file", "valid_file", "test_file", "corpus_dir", "add_tokens"}  # their content counts
_ENCODER_FILE = "sha256 of the encoder's "  # with the name of a file behind, a setting


class OtherSettingsError(UserError):
    """A run was made with other settings than those by which it is to go on."""


def describe_settings(
    options: dict[str, tuple[type, tuple[str, ...]]], arguments: tuple, hashes: dict, encoder_hashes: dict
) -> dict:
    """Get all on which the result of a run depends, but for hardware and versions, as plain values by name.

    Args:
        options: those of the script, by group.
        arguments: the objects that hold their values, the training arguments last.
        hashes: sha256 of each file, by what it is.
        encoder_hashes: what `smsa.models.loading.hash_model_files` gets of the encoder.
    """
    objects = {type(group): group for group in arguments}
    groups = [group for title, group in options.items() if title not in _NOT_SETTINGS]
    settings = {name: getattr(objects[kind], name) for kind, names in groups for name in names if name not in _PATHS}
    settings |= {f"sha256 of {name}": digest for name, digest in hashes.items()}
    settings |= {f"{_ENCODER_FILE}{name}": digest for name, digest in encoder_hashes.items()}
    return settings | {"precision": arguments[-1].mixed_precision, "n_processes": arguments[-1].world_size}


def find_changed(before: dict, now: dict) -> list[str]:
    """Get the names of the settings that differ.

    A name that `before` lacks is an option of a later version, which was off, as it still is where its value is false
    (0, None, False): so must new options be. Files of the encoder are compared where both know them: a name on the Hub
    has none, and may become a folder.
    """
    names = sorted(before.keys() | now.keys())
    return [
        name
        for name in names
        if before.get(name) != now.get(name)
        and (name in before or now[name])
        and (not name.startswith(_ENCODER_FILE) or name in before.keys() & now.keys())
    ]


def require_same_settings(before: dict, now: dict, allowed: tuple[str, ...], changeable: tuple[str, ...]) -> None:
    """Refuse to go on with a run under settings that would change its result.

    Args:
        before, now: settings by name.
        allowed: names of those that the user lets change.
        changeable: names of those that can change within a run at all.

    Raises:
        OtherSettingsError: naming each setting, its two values and the way out.
    """
    changed = find_changed(before, now)
    refused = [name for name in changed if name not in allowed]
    if refused:
        listed = "; ".join(f"{name} was {before.get(name)}, is {now.get(name)}" for name in refused)
        can_change = f", allow it by --allow_changes {','.join(changed)}" if set(refused) <= set(changeable) else ""
        raise OtherSettingsError(
            f"The checkpoints were made with other settings: {listed}. Give them as before{can_change}, or start a new "
            "run in another --output_dir."
        )
