"""One run on several processes, started by torchrun: each encodes its share of every batch, the rest sees it whole.

    torchrun --standalone --nproc_per_node=2 main.py --dataset CREMAD --method inforeg

Encoders are what costs. Their features are gathered, so the fusion head, the losses, and whatever a method makes of a
batch (scores, prototypes, draws) are computed on the whole batch by every process, alike. What is differentiated is the
loss of the whole batch, through the process's own share of the features; the sum of the encoders' gradients over the
processes is then that of one process. No method needs to know. Without torchrun nothing here does anything.

Batch normalisation sees the process's share, as in PyTorch's DistributedDataParallel, or with `GlobalBatchNorm` the
whole batch."""
