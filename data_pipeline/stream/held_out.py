"""A held-out split, read once and in order."""

from collections.abc import Iterator

from data_pipeline.config import DataConfig
from data_pipeline.stream.batch import Batch, check_rank, report_corrupt, to_step
from data_pipeline.stream.order import EpochRange
from data_pipeline.stream.packing import PackedDataset, empty_windows


def iterate_valid(
    path: str,
    *,
    sequence_length: int,
    micro_batch_size: int,
    data_rank: int = 0,
    data_ranks: int = 1,
    config: DataConfig | None = None,
) -> Iterator[Batch]:
    """Yield a whole split once, in order: every token exactly once over all ranks.

    All ranks get equally many batches of equal shape: what is missing at the end is padding,
    whose labels are all -100.

    Args:
        config: Storage, cache and checks; its order is not used.

    Raises:
        DataError: The split is missing or unreadable.
    """
    check_rank(data_rank, data_ranks)
    base = config or DataConfig()
    dataset = PackedDataset(path, 0, base.model_copy(update={"shuffle": False}))
    pad_id = dataset.manifest.tokenizer.pad_id
    num_windows = -(-dataset.tokens // sequence_length)
    per_round = micro_batch_size * data_ranks
    corrupt: dict[str, int] = {}
    for start in range(0, num_windows, per_round):
        windows = empty_windows(micro_batch_size, sequence_length, pad_id)
        first = start + data_rank * micro_batch_size
        spans = []
        for number in range(first, min(first + micro_batch_size, num_windows)):
            position = number * sequence_length
            count = min(sequence_length, dataset.tokens - position)
            spans.append(dataset.spans([EpochRange(0, position, count)]))
        dataset.reader.prefetch(sorted({span.shard for found in spans for span in found}))
        for row, found in enumerate(spans):
            dataset.fill(windows, row, found)
        report_corrupt(windows.corrupt, corrupt)
        yield to_step(windows).batches(micro_batch_size)[0]
