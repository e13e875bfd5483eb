"""Data sets, one a file; what clips become (`recipes`), where they lie (`storage`) and how they are made (`prepare`).

`DATASETS`, `build`, `checksums` and `preparation` stand in `dataset.registry`. It is loaded when one of them is first
asked for, since it needs torch, which takes seconds to load and which preparing data does without.
"""

__all__ = ["DATASETS", "build", "checksums", "preparation"]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dataset import registry

    return getattr(registry, name)
