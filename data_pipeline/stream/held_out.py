"""Reading of a held-out split, once and in order."""

from collections.abc import Iterator

from data_pipeline.config import DataConfig
from data_pipeline.stream.batch import Batch, check_rank, report_corrupt, to_step
from data_pipeline.stream.packing import Preparing, empty_windows
from data_pipeline.stream.whole_documents import open_dataset


def iterate_valid(
    path: str,
    *,
    sequence_length: int,
    micro_batch_size: int,
    data_rank: int = 0,
    data_ranks: int = 1,
    config: DataConfig | None = None,
    max_windows: int | None = None,
    preparing: Preparing | None = None,
) -> Iterator[Batch]:
    """Batches of a whole split in order: every token exactly once over all ranks.

    All ranks get the same number of batches of the same shape: the end is filled with padding,
    whose labels are all -100.

    Args:
        path: Folder or URL with the manifest.
        sequence_length: Tokens per window.
        micro_batch_size: Windows per batch.
        data_rank: Data-parallel rank that reads.
        data_ranks: Number of data-parallel ranks.
        config: Storage, cache and checks; its order is not used.
        max_windows: Number of windows after which to stop, over all ranks; None for the whole
            split.
        preparing: As of `build_train_loader`.

    Raises:
        DataError: The split is missing or unreadable.
    """
    check_rank(data_rank, data_ranks)
    base = config or DataConfig()
    update = {"shuffle": False, "sequence_length": sequence_length}
    dataset = open_dataset(path, 0, base.model_copy(update=update))
    pad_id = dataset.manifest.tokenizer.pad_id
    num_windows = dataset.num_windows(sequence_length)
    if max_windows is not None:
        num_windows = min(num_windows, max_windows)
    per_round = micro_batch_size * data_ranks
    prepare = None if preparing is None else preparing(dataset.manifest.tokenizer)
    corrupt: dict[str, int] = {}
    for start in range(0, num_windows, per_round):
        windows = empty_windows(micro_batch_size, sequence_length, pad_id)
        first = start + data_rank * micro_batch_size
        spans_by_row = []
        for number in range(first, min(first + micro_batch_size, num_windows)):
            spans_by_row.append(dataset.window_spans(number, sequence_length))
        shards = {span.shard for spans in spans_by_row for span in spans}
        dataset.reader.prefetch(sorted(shards))
        for row, spans in enumerate(spans_by_row):
            dataset.fill(windows, row, spans)
        if prepare is not None:
            prepare(windows, -1, range(first, first + micro_batch_size))
        report_corrupt(windows.corrupt, corrupt)
        yield to_step(windows).batches(micro_batch_size)[0]
