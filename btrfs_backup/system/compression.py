"""Programs that compress a stream on its way through ssh. Pure."""

from btrfs_backup.system.btrfs import Argv

# Method -> what compresses and what decompresses, from standard input to standard output.
METHODS: dict[str, tuple[Argv, Argv]] = {
    "zstd": (("zstd", "-q", "-c"), ("zstd", "-q", "-d", "-c")),
    "lz4": (("lz4", "-q", "-c"), ("lz4", "-q", "-d", "-c")),
    "gzip": (("gzip", "-c"), ("gzip", "-d", "-c")),
}
