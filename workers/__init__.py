"""What happens inside one trial; runs alone, with neither ray, mlflow nor pydantic installed."""

__version__ = "0.1.0"
