"""Exact and near-duplicates of a whole corpus, found by joins over files in bounded memory.

**The rule.** Documents are visited in the order of the corpus. One is an exact duplicate if an
earlier one has its hash. It is a near-duplicate if it resembles an earlier one that is *kept*: they
share a band of their signatures (all values of the band are equal) and at least `near_threshold` of
all values. Every other document is kept. Documents of earlier builds come first and are all kept.

**Why joins find the same documents.** Let "resembles" be the symmetric relation above.

1. Documents with the signature of an earlier document are near-duplicates: they resemble the first
   one with it if that one is kept, and else whatever it was dropped for. They leave.
2. A document is undecided until it is kept or dropped. *Invariant*: each decision is the rule's,
   and no undecided document resembles a kept one that is earlier. It holds at the beginning, and
   for documents of earlier builds after each bucket (the documents with one value of one band)
   that holds some has been joined with them.
3. A round: an undecided document that is the first undecided one in all of its buckets is a *root*.
   The rule keeps it: whatever earlier document it could resemble shares a bucket with it, so it is
   decided; if dropped it does not count, and if kept the invariant says that it is not resembled.
   Undecided documents that share a bucket with a root and resemble it are dropped, as by the rule:
   all of them are later, since the root comes first in the bucket. Then the invariant holds again.
4. Each round decides at least the first undecided document, and hardly ever leaves many. If one
   leaves more than 7/8 (long chains), all pairs of undecided documents that resemble each other are
   listed instead; visited by the later document of the pair, in order, the rule is applied to them
   as it stands. By the invariant nothing else can drop an undecided document.

**Memory.** A byte per document, in a file that is mapped; apart from it a task holds one partition
of the keys (about `Limits.records` of them), and a few thousand signatures at a time. A bucket with
most of the corpus is streamed. Between tasks there are only files: any number of processes, and any
of them killed, leave the same decisions.
"""
