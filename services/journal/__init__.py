"""A durable journal: what was acknowledged is there after a crash.

Payloads (bytes) get consecutive sequence numbers and lie, in order, in append-only segment files of one directory.

    files = DirectoryFiles.open(directory)           # takes the directory for this process alone
    journal = await Journal.open(files)              # reads everything, trims a torn tail, raises DataLoss on damage
    first = await journal.append([b"one", b"two"])   # returns after fdatasync; concurrent callers share one
    async for sequence, payload in journal.read(0): ...
    await journal.remove_before(first)               # whole segments that are no longer needed
    await journal.close()

What it promises:

* ``append`` returns only after the payloads and their order are durable. One that raised may have happened or not:
  make what you append recognisable, so that it can be repeated.
* Any error of a write or an fdatasync closes the journal: everybody who waits, and every later ``append``, gets
  Unavailable. Nothing is tried again on that file, because after a failed fsync the kernel may forget what it could
  not write. ``reopen`` begins a fresh segment once what was acknowledged has been read back and found whole; it is
  how a full disk is survived without a restart.
* A tail that a crash tore is cut off at the next start and reported in ``Journal.trimmed``. Damage that a crash cannot
  explain (before the end, a missing segment, anything below ``covered``) raises DamagedJournalError, a DataLoss, with
  the file and the offset. Damage inside the very last write looks like a torn tail: pass ``covered``, from a record
  of your own, for what must be there.

Floors: ``frames`` (bytes, pure) ← ``segments`` (files, blocking) ← ``journal`` (asyncio). ``ports.Files`` is the
disk: ``DirectoryFiles`` the real one, ``MemoryFiles`` one that can crash.
"""
