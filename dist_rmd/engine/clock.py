"""The clock of a stage: optimizer steps, epochs and batches that are done."""

from dataclasses import asdict, dataclass


@dataclass
class Clock:
    """Counts finished optimizer steps, finished epochs, and finished global batches of the current epoch."""

    step: int = 0
    epoch: int = 0
    batch: int = 0

    def tick(self) -> None:
        """Count one optimizer step."""
        self.step += 1
        self.batch += 1

    def next_epoch(self) -> None:
        """Count the current epoch as finished."""
        self.epoch += 1
        self.batch = 0

    def state_dict(self) -> dict[str, int]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.step, self.epoch, self.batch = state["step"], state["epoch"], state["batch"]
