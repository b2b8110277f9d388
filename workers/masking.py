"""Takes out of a trial's messages what only this machine should know, before they go into files, MLflow and logs.

A message is whatever an exception said: it may quote a path that an environment variable held, or an address with a
password in it.
"""

import dataclasses
import os
import re

from workers.contract import TrialConfig, TrialResult

_SECRET = re.compile(r"TOKEN|PASSW|SECRET|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY", re.IGNORECASE)
_SHORTEST = 6  # letters of a secret; shorter ones would take ordinary words out
_IN_ADDRESS = re.compile(r"(?<=://)[^\s/@]*:[^\s/@]*(?=@)")  # user:password


def without_secrets(config: TrialConfig, result: TrialResult) -> TrialResult:
    """The result with what `masked` takes out of its error and notes."""
    notes = tuple(masked(config, note) for note in result.notes)
    return dataclasses.replace(result, error=result.error and masked(config, result.error), notes=notes)


def masked(config: TrialConfig, text: str) -> str:
    """A text with a trial's folders of data by their keys' names, and each secret of the environment by its name."""
    hidden = _hidden(config)
    for secret in sorted(hidden, key=len, reverse=True):  # one may be part of another
        text = text.replace(secret, hidden[secret])
    return _IN_ADDRESS.sub("***", text)


def _hidden(config: TrialConfig) -> dict[str, str]:
    """What is written in place of each text."""
    secrets = {value: f"${name}" for name, value in os.environ.items() if _SECRET.search(name)}
    folders = {config.data.root: "data.root", config.data.cache: "data.cache"}
    given = {**secrets, **{folder: key for folder, key in folders.items() if folder}}
    return {text: name for text, name in given.items() if len(text) >= _SHORTEST}
