from dataclasses import replace

from digits_trials import DIGITS, digits_trial

from workers.contract import TrialResult, TrialStatus
from workers.masking import without_secrets

CONFIG = digits_trial(data=replace(DIGITS, root="/mnt/project-x", cache="/mnt/project-x/cache"))


def masked(text):
    result = TrialResult("x", TrialStatus.CRASHED, 1, "", "", error=text, notes=(text, "plain"))
    safe = without_secrets(CONFIG, result)
    assert safe.notes == (safe.error, "plain")
    assert replace(safe, error=text, notes=result.notes) == result
    return safe.error


def test_folders_of_the_data_are_named_by_their_keys():
    assert masked("/mnt/project-x/train/a.png: not an image") == "data.root/train/a.png: not an image"
    assert masked("/mnt/project-x/cache/1: no room") == "data.cache/1: no room"


def test_secrets_of_the_environment_are_named_by_their_variables(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdef")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hf_abcdef/and-more")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "correct horse")
    said = "401 for hf_abcdef, hf_abcdef/and-more and correct horse"
    assert masked(said) == "401 for $HF_TOKEN, $AWS_SECRET_ACCESS_KEY and $MLFLOW_TRACKING_PASSWORD"


def test_ordinary_words_stay(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "on")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    assert masked("out of memory on false") == "out of memory on false"


def test_passwords_in_addresses_are_left_out():
    assert masked("https://me:word@host/x failed") == "https://***@host/x failed"
    assert masked("see https://host:80/a@b") == "see https://host:80/a@b"


def test_a_result_without_a_message_is_the_same():
    result = TrialResult("x", TrialStatus.OK, 1, "", "")
    assert without_secrets(CONFIG, result) == result
