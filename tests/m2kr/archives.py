"""Archives that the tests write."""

import gzip
import io
import tarfile
import zipfile


def archived(path, files):
    """Write files (name -> bytes) as an archive of the kind that the path's ending says; else the last of them alone.

    Return the path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    elif path.name.endswith((".tar", ".tar.gz", ".tgz")):
        with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    else:
        content = list(files.values())[-1]
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path
