"""Notices data that changed under the same version: a sweep's trials are all trained on the same images.

The sweep's `data.json` holds what the first finished trial of a data set's version was trained on. Later trials are
told and refuse other images, and a result from a machine whose folder holds others is refused. Where the file is gone,
the rows say the same.
"""

import dataclasses
from collections.abc import Sequence
from contextlib import suppress

from sweep.errors import RefusedError
from sweep.index import read_rows
from sweep.layout import SweepFolder
from workers.contract import DataConfig, TrialConfig, TrialResult, TrialStatus
from workers.files import read_sealed, seal, write_json
from workers.work_folder import RESULT


def expected(folder: SweepFolder, name: str, version: str) -> str | None:
    """Identity of the images that the sweep's trials had so far; None where none has finished.

    Raises:
        RefusedError: `data.json` is damaged.
    """
    return _identities(folder).get(_key(name, version))


def expecting(folder: SweepFolder, trials: Sequence[TrialConfig]) -> list[TrialConfig]:
    """The trials, each told which images it has to find; their ids do not depend on it."""
    known = _identities(folder)

    def told(data: DataConfig) -> DataConfig:
        return dataclasses.replace(data, expected=known.get(_key(data.name, data.version)))

    return [dataclasses.replace(config, data=told(config.data)) for config in trials]


def accept(folder: SweepFolder, config: TrialConfig, result: TrialResult) -> TrialResult:
    """A finished trial's result, or a `data_error` in its place where it was trained on other images than those before.

    The first one says which images the sweep is about. A refused result is removed from the work folder, so that
    nobody takes it for the next attempt's.
    """
    identity, data = result.data_identity, config.data
    if result.status is not TrialStatus.OK or identity is None:
        return result
    known = _identities(folder)
    key = _key(data.name, data.version)
    if key not in known or not folder.data.exists():
        with suppress(OSError):  # a full disk: the next finished trial tries again
            write_json(folder.data, seal({key: identity} | known))
    if known.get(key, identity) != identity:
        (folder.work(config.trial_id) / RESULT).unlink(missing_ok=True)
        return _refused(config, result)
    return result


def _refused(config: TrialConfig, result: TrialResult) -> TrialResult:
    """What stays of a result whose accuracies are of other images."""
    data = config.data
    error = (
        f"{data.root or data.name}: the images on {result.host or 'its machine'} are not those that the sweep's other "
        f"trials had under version {data.version!r} of {data.name}; restore them there, or name a new data.version"
    )
    status = TrialStatus.DATA_ERROR
    return dataclasses.replace(
        result, status=status, error=error, history=(), val_top1=None, val_top5=None, val_loss=None
    )


def _identities(folder: SweepFolder) -> dict[str, str]:
    try:
        known = read_sealed(folder.data)
    except FileNotFoundError:
        return _identities_of_rows(folder)
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())
        raise RefusedError(
            f"{folder.data}: damaged ({why}); move it away, and `sweep run` takes what it held from the rows"
        ) from error
    return {str(key): str(identity) for key, identity in known.items()}


def _identities_of_rows(folder: SweepFolder) -> dict[str, str]:
    """What the rows of finished trials say that their images were; a damaged row says nothing."""
    if not folder.trials.is_dir():
        return {}
    rows = read_rows(folder.trials, ["dataset", "status", "data_identity"], lambda part, error: None).to_pylist()
    said = [row for row in rows if row.get("status") == TrialStatus.OK and row.get("data_identity")]
    return {str(row["dataset"]): str(row["data_identity"]) for row in said}


def _key(name: str, version: str) -> str:
    return f"{name} {version}"
