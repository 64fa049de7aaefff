"""New tokens per frame of the hierarchical FFT (imports no torch)."""

LONGEST_CHUNK = 8_192
# chunks that a training sequence holds at least, so that most of its tokens read earlier chunks
MIN_CHUNKS = 4


def chunk_tokens(chunk: int) -> int:
    """New tokens per frame by the key `fft.chunk`, whose 0 is the longest if no run has chosen."""
    return chunk or LONGEST_CHUNK


def automatic_chunk(sequence_length: int) -> int:
    """The chunk for training on sequences of a length: a power of two, at most a quarter of it."""
    quarter = max(1, sequence_length // MIN_CHUNKS)
    return min(LONGEST_CHUNK, 1 << (quarter.bit_length() - 1))
