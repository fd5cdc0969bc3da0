"""What a machine that loses its power leaves of a folder: what was synced, and of the rest as much as chance has it.

A model of a journalling file system that promises no more than POSIX does:

- A file has the bytes that it had when it was synced last, or those of now, or a piece of these, or zeros.
- A folder has the names that it had when it was synced last, or at any moment since. A rename within a folder is whole or
  undone. What lies in a folder whose own name was not synced is gone with it.

It looks at the folder before and after each operation that the caller tells of; a file that came and went between two of them
is not noticed.
"""

import os
import random
import shutil
import stat
from pathlib import Path

_Listing = dict[str, int | str]  # name -> inode, or where a link leads to


class Disk:
    """A folder, of which it is known what has been synced; when this is made, all of it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._held: dict[int, int] = {}  # inode -> a descriptor, lest the number be given to another file
        self._names: dict[int, list[_Listing]] = {}  # of a folder: as it was synced last, and each state since
        self._synced: dict[int, bytes] = {}  # of a file
        self.look()
        for inode, states in self._names.items():
            self._names[inode] = states[-1:]
        for inode in self._held.keys() - self._names.keys():
            self._synced[inode] = self._bytes(inode)

    def look(self) -> None:
        """Take down which names the folders have now."""
        folders = [self._root]
        for folder in folders:
            names: _Listing = {}
            for entry in os.scandir(folder):
                inode = entry.inode()
                names[entry.name] = str(Path(entry.path).readlink()) if entry.is_symlink() else inode
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
                elif not entry.is_symlink() and inode not in self._held:
                    self._held[inode] = os.open(entry.path, os.O_RDONLY)
            inode = folder.stat().st_ino
            if inode not in self._held:
                self._held[inode] = os.open(folder, os.O_RDONLY)
                self._names[inode] = [{}]
            if names != self._names[inode][-1]:
                self._names[inode].append(names)

    def synced(self, descriptor: int) -> None:
        """Take down that a file or folder has been synced."""
        self.look()
        inode = os.fstat(descriptor).st_ino
        if inode in self._names:
            self._names[inode] = self._names[inode][-1:]
        elif inode in self._held:
            self._synced[inode] = self._bytes(inode)

    def cut(self, draw: random.Random) -> None:
        """Leave in the folder what a power cut now would."""
        self.look()
        for path in self._root.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        self._write(self._root, self._root.stat().st_ino, draw, set())

    def _write(self, folder: Path, inode: int, draw: random.Random, written: set[int]) -> None:
        states = self._names[inode]
        for name, what in draw.choice([states[0], draw.choice(states)]).items():
            path = folder / name
            if isinstance(what, str):
                path.symlink_to(what)
            elif what in self._names and what not in written:  # a folder is in one place
                written.add(what)
                path.mkdir()
                self._write(path, what, draw, written)
            elif what not in self._names:
                path.write_bytes(self._left(what, draw))
                time = os.fstat(self._held[what]).st_mtime_ns  # which artifact is the newest
                os.utime(path, ns=(time, time))

    def _left(self, inode: int, draw: random.Random) -> bytes:
        """Return what is left of a file."""
        now, synced = self._bytes(inode), self._synced.get(inode, b"")
        if now == synced:
            return now
        return draw.choice([synced, now, now[: draw.randrange(len(now) + 1)], bytes(len(now))])

    def _bytes(self, inode: int) -> bytes:
        descriptor = self._held[inode]
        found = os.fstat(descriptor)
        return os.pread(descriptor, found.st_size, 0) if stat.S_ISREG(found.st_mode) else b""
