"""What a MicroBatcher has done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BatcherStatistics:
    """What a MicroBatcher has done since it was made, for monitoring.

    Every image that was accepted is answered, refused, failed, cancelled or still in flight.

    batches:   runs of the session, those that failed too
    answered:  images that got their logits
    refused:   images that could not be used (ImageError)
    failed:    images of batches that the session could not run (BatchError)
    cancelled: images whose caller left before they were run
    rejected:  times that an image was not accepted, as `max_queue` were in flight (BusyError)
    in_flight: images accepted and not yet done with
    """

    batches: int = 0
    answered: int = 0
    refused: int = 0
    failed: int = 0
    cancelled: int = 0
    rejected: int = 0
    in_flight: int = 0

    @property
    def mean_batch(self) -> float:
        """Images a batch; 0 before the first.

        >>> BatcherStatistics(batches=4, answered=9, failed=1).mean_batch
        2.5
        """
        return (self.answered + self.failed) / self.batches if self.batches else 0.0
