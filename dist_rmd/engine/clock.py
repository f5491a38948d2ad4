"""Where a stage stands in its training."""

from dataclasses import asdict, dataclass


@dataclass
class Clock:
    """Counts what is done: optimizer steps in all, whole epochs, and global batches of the present epoch."""

    step: int = 0
    epoch: int = 0
    batch: int = 0

    def tick(self) -> None:
        """One optimizer step more."""
        self.step += 1
        self.batch += 1

    def next_epoch(self) -> None:
        """The present epoch is done."""
        self.epoch += 1
        self.batch = 0

    def state_dict(self) -> dict[str, int]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.step, self.epoch, self.batch = state["step"], state["epoch"], state["batch"]
