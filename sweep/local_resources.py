"""Whether this process can train what a sweep asks for, told once instead of by each of its trials."""

from sweep.errors import ResourcesError
from workers.contract import InvalidConfigError, TrialConfig


def check_local(config: TrialConfig) -> None:
    """Refuse a trial that this process cannot train.

    Raises:
        ResourcesError: the trial has several devices, or one that this machine has not got; one line.
    """
    if config.execution.ranks > 1:
        raise ResourcesError(
            f"resources.devices: {config.execution.ranks} devices need as many processes, and `--executor local` has "
            "one; right would be `--executor ray`"
        )
    if config.device == "cpu":
        return
    from workers.device import Device

    try:
        Device(config.device, config.precision, config.threads)
    except InvalidConfigError as error:
        raise ResourcesError(f"resources: {error}") from error
