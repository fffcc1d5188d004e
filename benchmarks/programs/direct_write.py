"""Copy a base past the page cache, as fast as the disk takes it; takes BASE ADAPTER OUT.

The limit of any merge that ends with its bytes on disk: files are read from the page cache, as by
`cp`, and written with O_DIRECT; nothing is computed. Prints the seconds. Linux only.
"""

import mmap
import os
import shutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Pieces of 1 to 16 MiB, 1 to 4 threads, and files with their blocks allocated before differed by
# less than two runs of one of them.
PIECE_BYTES, THREADS = 4 << 20, 2
# With O_DIRECT, addresses in memory and in the file are multiples of a block, and so are sizes.
BLOCK_BYTES = 4096
buffers = threading.local()


def write(source: int, target: int, offset: int, size: int) -> None:
    if not hasattr(buffers, "piece"):
        buffers.piece = mmap.mmap(-1, PIECE_BYTES)  # begins at a page
    with memoryview(buffers.piece) as piece:
        done = 0
        while done < size:
            done += os.preadv(source, [piece[done:size]], offset + done)
        # What the last block has beyond the end is cut off when the file gets its size.
        whole = -(-size // BLOCK_BYTES) * BLOCK_BYTES
        done = 0
        while done < whole:
            done += os.pwrite(target, piece[done:whole], offset + done)


base, _, output = map(Path, sys.argv[1:])
start = time.perf_counter()
output.mkdir()
with ThreadPoolExecutor(THREADS) as pool:
    opened = []
    for path in sorted(base.iterdir()):
        if path.suffix != ".safetensors":
            shutil.copy(path, output)
            continue
        source = os.open(path, os.O_RDONLY)
        target = os.open(output / path.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_DIRECT)
        size = os.fstat(source).st_size
        pieces = [
            pool.submit(write, source, target, offset, min(PIECE_BYTES, size - offset))
            for offset in range(0, size, PIECE_BYTES)
        ]
        opened.append((target, size, pieces))
    for target, size, pieces in opened:
        for piece in pieces:
            piece.result()
        os.ftruncate(target, size)
        os.fsync(target)
print(time.perf_counter() - start)
