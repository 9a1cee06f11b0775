import numpy as np
from numpy.typing import NDArray

with_cuda: bool

class PairCounts:
    def __init__(self, num_labels: int) -> None: ...
    def add_co_detection(self, top: NDArray[np.int64], num_threads: int = 1) -> None: ...
    def add_confusion(
        self,
        top: NDArray[np.int64],
        indices: NDArray[np.int64],
        offsets: NDArray[np.int64],
        num_threads: int = 1,
    ) -> None: ...
    def add_run(
        self, offsets: NDArray[np.int64], columns: NDArray[np.int32], counts: NDArray[np.int64]
    ) -> None: ...
    def merged(self) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]: ...
