"""Getting source files: Debian packages and URLs. Nothing is used before it is verified: packages by apt's signatures
and then by the hash of the prepared text, files by their SHA-256."""
import hashlib
import io
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import urllib.error
import urllib.parse
import urllib.request


class FetchError(Exception):
    """A source that can't be had; the message is one line."""


def sha256_file(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        for chunk in iter(lambda: f.read(1 << 20), b""):
            h.update(chunk)
    return h.hexdigest()


# ---- Debian packages -----------------------------------------------------------------------------

def find_package(folder, package):
    """The newest PACKAGE_*.deb of a folder, None if there is none."""
    found = sorted(pathlib.Path(folder).glob(f"{package}_*.deb"))
    return found[-1] if found else None


def download_package(package, folder):
    """Downloads a package with apt-get, which needs no root; returns the .deb."""
    elsewhere = f"or fetch {package}_*.deb elsewhere and give its folder with --from"
    if not shutil.which("apt-get"):
        raise FetchError(f"package {package}: there is no apt-get here; use Debian or Ubuntu, {elsewhere}")
    # apt's unprivileged download user may not enter the folder; then apt only warns.
    run = subprocess.run(["apt-get", "download", "-q", package], cwd=folder, capture_output=True, text=True,
                         env={**os.environ, "LC_ALL": "C"}, check=False)
    deb = find_package(folder, package)
    if run.returncode or not deb:
        errors = [line for line in run.stderr.splitlines() if line.startswith("E:")]
        why = errors[0] if errors else f"apt-get download ended with {run.returncode}"
        raise FetchError(f"package {package}: {why}; offline, or run `apt-get update` as root, {elsewhere}")
    return deb


def _ar_members(data, name):
    """Members of an ar archive, the outer form of a .deb."""
    if not data.startswith(b"!<arch>\n"):
        raise FetchError(f"{name}: not a Debian package")
    at = 8
    while at + 60 <= len(data):
        header = data[at:at + 60]
        try:
            size = int(header[48:58])
        except ValueError:
            raise FetchError(f"{name}: damaged package (ar header at byte {at})") from None
        at += 60
        if size < 0 or at + size > len(data):
            raise FetchError(f"{name}: truncated package")
        yield header[:16].decode("ascii", "replace").rstrip(" /"), data[at:at + size]
        at += size + size % 2


def package_files(deb, folder):
    """Files of a .deb below `folder`, read in memory: path below it -> bytes."""
    if shutil.which("dpkg-deb"):
        run = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(deb)], capture_output=True, check=False)
        if run.returncode:
            why = run.stderr.decode("utf-8", "replace").strip().splitlines()
            raise FetchError(f"{deb}: {why[-1] if why else 'dpkg-deb failed'}")
        tar = run.stdout
    else:
        members = [data for name, data in _ar_members(deb.read_bytes(), deb) if name.startswith("data.tar")]
        if not members:
            raise FetchError(f"{deb}: a package without data.tar")
        tar = members[0]
    prefix = folder.strip("/") + "/"
    files = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
            for member in archive:
                path = member.name[2:] if member.name.startswith("./") else member.name
                data = archive.extractfile(member) if member.isfile() and path.startswith(prefix) else None
                if data is not None:
                    files[path[len(prefix):]] = data.read()
    except tarfile.TarError as e:
        raise FetchError(f"{deb}: {e}; without dpkg-deb only xz, bzip2 and gzip packages can be read") from None
    if not files:
        raise FetchError(f"{deb}: holds no {folder}")
    return files


# ---- URLs ----------------------------------------------------------------------------------------

def _progress(done, total, name):
    if sys.stderr.isatty():
        part = f"{100 * done // total:3d} %" if total else f"{done >> 20} MiB"
        sys.stderr.write(f"\r{name}: {part}")
        sys.stderr.flush()


def _copy_hashed(source, target, total, name):
    h, done = hashlib.sha256(), 0
    for chunk in iter(lambda: source.read(1 << 18), b""):
        target.write(chunk)
        h.update(chunk)
        done += len(chunk)
        _progress(done, total, name)
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")
    return h.hexdigest(), done


def download(urls, sha256, path):
    """The file at one of the URLs, tried in order, to `path`, which appears only when its SHA-256 is right."""
    partial, failures = f"{path}.part", []
    for url in urls:
        host = urllib.parse.urlsplit(url).hostname or url
        try:
            request = urllib.request.Request(url, headers={"User-Agent": "sinklab-prepare"})
            with urllib.request.urlopen(request, timeout=30) as source, open(partial, "wb") as target:
                total = int(source.headers.get("Content-Length") or 0)
                got, size = _copy_hashed(source, target, total, os.path.basename(path))
            if got == sha256:
                os.replace(partial, path)
                return
            failures.append(f"{host} sent {size} bytes with SHA-256 {got[:16]}..., expected {sha256[:16]}...")
        except (OSError, urllib.error.URLError, ValueError) as e:
            failures.append(f"{host}: {getattr(e, 'reason', e)}")
        finally:
            if os.path.exists(partial):
                os.unlink(partial)
    raise FetchError(f"{os.path.basename(path)}: {'; '.join(failures)} (offline? fetch it elsewhere and give its "
                     "folder with --from)")
