"""These tests need torch_xla, which has an environment of its own: `make test-xla`. Elsewhere they are not there."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("torch_xla") else ["test_*.py"]
