"""Trained runs on the Hugging Face hub: which names are meant, and how a run comes down and goes up.

What comes down is checked by `vidiff.store.package` before anything of it is read; nothing is unpickled or run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from vidiff.store.package import MANIFEST, PackageError, check_listing, read_manifest, verify
from vidiff.store.plain import check_yaml, read_json

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)  # owner/name
FOLDERS = ("checkpoints/", "codec/", "samples/", "scores")
"""Where a shared run has files, beside its top. What a new one lacks is removed there."""


class HubError(ValueError):
    """A model on the hub that cannot be had, or not be put there. The message names it."""


def is_hub_name(run: str | Path) -> bool:
    """Whether a run is named as `owner/name`, and no folder here is meant: neither is there, nor is runs/ the owner."""
    owner = Path(str(run)).parts[:1]
    return bool(NAME.fullmatch(str(run))) and owner != ("runs",) and not Path(*owner).exists()


def check_hub_name(name: str) -> None:
    """Raises HubError unless it is one: before the work whose result is to go there."""
    if not NAME.fullmatch(name):
        raise HubError(f"{name[:200]!r} is no name on the hub: give owner/name, such as ada/bouncing-shapes")


def folder_of(run: str | Path, revision: str | None = None) -> Path:
    """The folder of a run: the one that is named, or one fetched from the hub.

    Raises:
        ValueError: for a revision of a folder here.
        HubError: as `fetch`.
    """
    if is_hub_name(run):
        return fetch(str(run), revision)
    if revision is not None:
        raise ValueError(f"revision is {revision!r}, but {run} is a folder here: leave it out, or give owner/name")
    return Path(run)


def fetch(name: str, revision: str | None = None) -> Path:
    """The folder of a run on the hub, fetched as far as it is not here already.

    Args:
        name: "owner/name".
        revision: a branch, a tag or a commit; by default the newest. Only a commit is sure to stay the same.

    Raises:
        HubError: there is none, it cannot be reached, or it holds what a shared run must not: a file of a kind that
            could be run, a name or link that leads out, or bytes that are not those of its manifest.
    """
    hub = _library()
    with _told(hub, name, revision):
        try:
            info = hub.HfApi().model_info(name, revision=revision, files_metadata=True)
        except hub.errors.HfHubHTTPError:  # it was reached, and refused
            raise
        except (hub.errors.OfflineModeIsEnabled, hub.errors.HTTPError):  # then what was fetched before, if it was
            return _checked(Path(hub.hf_hub_download(name, MANIFEST, revision=revision, local_files_only=True)).parent)
        sizes = {file.rfilename: file.size for file in info.siblings or []}
        check_listing(sizes)
        if MANIFEST not in sizes:
            raise PackageError(f"it has no {MANIFEST}: it was not put there by `vidiff push`")
        manifest = Path(hub.hf_hub_download(name, MANIFEST, revision=revision))  # notes which commit that was
        if manifest.parent.name != info.sha:
            raise PackageError("it was changed at this very moment: try again")
        for file, expected in read_manifest(manifest).items():
            if sizes.get(file) != expected.bytes:
                has = "missing" if file not in sizes else f"of {sizes[file]} bytes"
                raise PackageError(f"{file} is {has}, and {MANIFEST} says {expected.bytes} bytes")
            hub.hf_hub_download(name, file, revision=info.sha)
        return _checked(manifest.parent)


def send(folder: Path, name: str, private: bool = False, message: str = "A run of vidiff") -> str:
    """Put a sealed package on the hub, as one commit; a repository that is not there is made.

    Args:
        folder: a package, with its manifest.
        name: "owner/name".
        private: for its owner alone; else as the owner's new models are by default.

    Returns:
        its address.

    Raises:
        HubError: where the hub refuses or cannot be reached; and for a repository of this name that holds something
            else, or that anybody may read while `private` is asked for. Nothing is sent then.
    """
    check_hub_name(name)
    files = [MANIFEST, *read_manifest(folder / MANIFEST)]
    verify(folder, read_manifest(folder / MANIFEST), folder)
    hub = _library()
    with _told(hub, name, None):
        api = hub.HfApi()
        address = str(api.create_repo(name, private=private or None, exist_ok=True))
        info = api.model_info(name)
        there = [file.rfilename for file in info.siblings or []]
        if private and not info.private:
            raise PackageError("anybody may read it already: leave out --private, or give another name")
        if MANIFEST not in there and (odd := sorted({*there} - {".gitattributes", "README.md", "LICENSE"})):
            raise PackageError(f"it holds {odd[0]}, and no run of vidiff, so nothing was sent: give another name")
        files += [page for page in ("README.md",) if (folder / page).is_file()]
        stale = [file for file in there if file.startswith(FOLDERS) and file not in files]
        operations = [hub.CommitOperationAdd(file, folder / file) for file in files]
        operations += [hub.CommitOperationDelete(file) for file in stale]
        api.create_commit(name, operations, commit_message=message)
    return address


def licence_told(path: str) -> str:
    """A model's place with its licence: of a folder what README.md says, or a file LICENSE; of a name on the hub what
    the hub does. Where nothing tells it, what to do about that.
    """
    folder = Path(path)
    if folder.is_dir():
        files = sorted(file.name for file in folder.glob("LICENSE*"))
        page = folder / "README.md"
        head = page.read_text(encoding="utf-8", errors="replace") if page.is_file() else ""
        found = re.search(r"\A---\n(?:.*\n)*?license: *(\S.*)\n(?:.*\n)*?---", head)
        licence = found[1] if found else f"that of {folder / files[0]}" if files else ""
    else:
        name, hub = "/".join(Path(path).parts[:2]), _library()
        try:
            with _told(hub, name, None):
                licence = getattr(hub.HfApi().model_info(name).card_data, "license", None) or ""
        except HubError:  # it may lie in the cache of a machine without a network
            licence = ""
    if not licence:
        return f"{path}, beside which no licence is told: look up what may be made of its weights, and be passed on"
    return f"{path}, whose licence is {licence}: what is made of its weights may be passed on as that allows"


def _checked(folder: Path) -> Path:
    """A fetched package, every byte of which is what its manifest says, and which leads nowhere else."""
    files = read_manifest(folder / MANIFEST)
    cache = folder.parents[1]  # of this repository: its files are links to blobs/ there
    verify(folder, files, cache)
    for needed in ("resolved.yaml", "data.json"):
        if needed not in files:
            raise PackageError(f"{MANIFEST} names no {needed}, which every trained run has")
    text = check_yaml((folder / "resolved.yaml").read_text(encoding="utf-8"))
    if "${" in text:  # could put environment variables, and so secrets, where names go out
        raise PackageError("resolved.yaml has an interpolation ${...}, which a run that vidiff wrote never has")
    config, facts = yaml.safe_load(text), read_json(folder / "data.json")
    slots = [config.get("text") if isinstance(config, dict) else None, facts.get("text") if facts else None]
    for slot in slots:
        model = slot.get("model") if isinstance(slot, dict) else None
        if model is not None and not (isinstance(model, str) and NAME.fullmatch(model)):
            raise PackageError(f"its text.model is {model!r}, which is no name on the hub")
    return folder


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise HubError(
            "models on the Hugging Face hub need the package huggingface_hub: pip install 'vidiff[hub]'"
        ) from None
    return huggingface_hub


@contextmanager
def _told(hub: Any, name: str, revision: str | None) -> Iterator[None]:
    """Turns what goes wrong into one line with the model's name and the way out."""
    try:
        yield
    except PackageError as error:
        raise HubError(f"{name}: {error}") from None
    except hub.errors.GatedRepoError:
        raise HubError(
            f"{name} is for those who were admitted: ask for access on its page, then `hf auth login`"
        ) from None
    except hub.errors.RevisionNotFoundError:
        raise HubError(f"{name} has no revision {revision!r}: give a branch, a tag or a commit of it") from None
    except hub.errors.RepositoryNotFoundError:
        raise HubError(
            f"there is no folder {name} here, and no model of this name on the hub that you may read: check the name, "
            "or `hf auth login` for one that is private"
        ) from None
    except hub.errors.LocalEntryNotFoundError:
        raise HubError(f"{name} is not here, and the hub cannot be reached: try again with a network") from None
    except (hub.errors.HTTPError, hub.errors.HFValidationError, hub.errors.OfflineModeIsEnabled) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise HubError(
            f"{name}: the hub refused or cannot be reached ({reason}): see to the network and `hf auth login`"
        ) from None
