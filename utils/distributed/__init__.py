"""One run on several processes, started by torchrun: each encodes its share of a batch, all else sees the whole batch.

    torchrun --standalone --nproc_per_node=2 main.py --dataset CREMAD --method inforeg

Encoders take nearly all of the time. Their features are gathered, so every process computes the same fusion head,
losses, and whatever a method makes of a batch (scores, prototypes, draws), on the whole batch. Each differentiates the
loss of the whole batch through its own share of the features; summed over the processes, the encoders' gradients are
then those of one process. No method needs to know. Without torchrun nothing here does anything.

    processes   joining the others; what all agree on
    gather      a process's share of a batch, and the features of the whole batch
    gradients   sums of gradients over the processes, in buckets
    norm        batch normalisation by the whole batch; otherwise it sees the share, as in DistributedDataParallel
"""
