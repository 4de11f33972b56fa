"""
A Hugging Face Hub on loopback: the protocol that `huggingface_hub`, `transformers` and `datasets` speak, over HTTP.

It keeps repositories (models, data sets, Spaces) with commits, branches and pull requests in memory: create, preupload,
commit, LFS upload and verification, resolve with ranges and ETags, revisions, tree, private repositories, gated ones,
and on demand errors and dropped connections. `HF_HUB_DISABLE_XET=1` makes the clients use LFS.
"""

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKENS = {"hf_owner": "owner", "hf_other": "other", "hf_reader": "reader"}  # token -> user; all but the last may write
READ_ONLY = {"hf_reader"}
LFS_ABOVE = 10_000  # bytes; the real Hub goes by .gitattributes too
KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
DATE = "2026-01-01T00:00:00.000Z"


class Refused(Exception):
    """An answer other than success: status, code of the Hub, message."""


@dataclass
class File:
    content: bytes
    lfs: bool

    @property
    def oid(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid


@dataclass
class Repo:
    kind: str
    name: str
    private: bool = False
    gated: bool = False
    sdk: str | None = None
    refs: dict[str, str] = field(default_factory=dict)  # branches and pull requests -> commit
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.commit("main", {".gitattributes": File(b"*.safetensors filter=lfs\n", False)}, "initial commit")

    def commit(self, ref: str, files: dict[str, File], message: str) -> str:
        self.messages.append(message)
        text = json.dumps([len(self.commits), self.name, {path: file.oid for path, file in sorted(files.items())}])
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha] = files
        self.refs[ref] = sha
        return sha

    def find(self, revision: str) -> str:
        if revision in self.refs:
            return self.refs[revision]
        found = [sha for sha in self.commits if sha.startswith(revision) and len(revision) >= 7]
        if not found:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found[0]

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return {path: file.content for path, file in self.commits[self.find(revision)].items()}


class LocalHub:
    """The server. `repos` and `requests` are there to be looked at, `faults` to be filled."""

    def __init__(self) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.lock = threading.RLock()
        self.reset()
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def reset(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes] = {}  # by SHA-256, uploaded but perhaps in no commit
        # Method, pattern of the path, and a status, or "drop" (the connection), or "deafen" (only after the work)
        self.faults: list[tuple[str, str, Any]] = []
        self.requests: list[tuple[str, str, str | None]] = []  # method, path, token

    def repo(self, name: str, kind: str = "model") -> Repo:
        return self.repos[kind, name]

    def add(self, name: str, files: dict[str, bytes], kind: str = "model", **options: Any) -> Repo:
        """A repository as if somebody had pushed it."""
        repo = self.repos[kind, name] = Repo(kind, name, **options)
        repo.commit("main", {path: File(data, len(data) > LFS_ABOVE) for path, data in files.items()}, "upload")
        return repo


class Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        pass

    # Plumbing

    def serve(self) -> None:
        self.body = self.read_body()
        parts = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        self.token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        with self.hub.lock:
            self.hub.requests.append((self.command, self.path, self.token))
            fault = next((f for f in self.hub.faults if f[0] == self.command and re.search(f[1], self.path)), None)
            if fault:
                self.hub.faults.remove(fault)
        if fault and fault[2] == "drop":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        self.deaf = fault is not None and fault[2] == "deafen"
        try:
            if fault and not self.deaf:
                raise Refused(fault[2], "", "made to fail")
            self.route(unquote(parts.path))
        except Refused as refused:
            status, code, message = refused.args
            headers = {"X-Error-Code": code} if code else {}
            self.reply(status, {"error": message}, {**headers, "X-Error-Message": message})

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def reply(self, status: int, content: Any = None, headers: dict[str, str] | None = None) -> None:
        if self.deaf:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    # Who may do what

    @property
    def user(self) -> str | None:
        if self.token is not None and self.token not in TOKENS:
            raise Refused(401, "", "Invalid credentials in Authorization header")
        return TOKENS.get(self.token or "")

    def find_repo(self, kind: str, name: str) -> Repo:
        repo = self.hub.repos.get((kind, name))
        if repo is None or (repo.private and self.user != name.split("/")[0]):
            raise Refused(401 if self.user is None else 404, "RepoNotFound", "Repository not found")
        return repo

    def writable(self, kind: str, name: str) -> Repo:
        """A repository that the user may commit to; a pull request may come from everybody."""
        repo = self.find_repo(kind, name)
        if self.user is None:
            raise Refused(401, "", "Invalid username or password.")
        if "create_pr" in self.query:
            return repo
        if self.user != name.split("/")[0] or self.token in READ_ONLY:
            raise Refused(403, "", f"Forbidden: you don't have the rights to write to {name}")
        return repo

    def readable(self, kind: str, name: str) -> Repo:
        """A repository whose files may be read; everybody may see what a gated one holds."""
        repo = self.find_repo(kind, name)
        if repo.gated and self.user != name.split("/")[0]:
            message = f"Access to {kind} {name} is restricted and you are not in the authorized list."
            raise Refused(401 if self.user is None else 403, "GatedRepo", message)
        return repo

    # What is asked for

    def route(self, path: str) -> None:
        routes = [
            (r"/api/whoami-v2", self.whoami),
            (r"/api/validate-yaml", self.validate_yaml),
            (r"/api/repos/(create|delete)", self.create_or_delete),
            (r"/(?P<object>lfs|cdn)/(?P<oid>\w{64})(?P<verify>/verify)?", self.large_file),
            (r"/(?:(?P<kind>datasets|spaces)/)?(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", self.lfs_batch),
            (r"/api/(?P<kind>models|datasets|spaces)/(?P<name>[^/]+/[^/]+)(?:/(?P<rest>.*))?", self.api),
            (r"/(?:(?P<kind>datasets|spaces)/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<rest>.*)", self.resolve),
        ]
        for pattern, method in routes:
            if match := re.fullmatch(pattern, path):
                return method(match)
        raise Refused(404, "", f"no such page: {path}")

    def whoami(self, match: re.Match) -> None:
        if self.user is None:
            raise Refused(401, "", "Invalid username or password.")
        self.reply(200, {"type": "user", "name": self.user, "orgs": []})

    def validate_yaml(self, match: re.Match) -> None:
        """As strict as to want YAML, and values of two fields that the Hub has a list of."""
        content = json.loads(self.body)["content"]
        found = re.match(r"---\n(.*?)\n---", content, re.DOTALL)
        errors = []
        try:
            data = yaml.safe_load(found[1]) if found else {}
        except yaml.YAMLError as error:
            data, errors = {}, [{"message": str(error)}]
        known = {"apache-2.0", "mit", "cc-by-4.0", "cc-by-sa-4.0", "other"}
        licences = data.get("license") or []
        if not set([licences] if isinstance(licences, str) else licences) <= known:
            errors.append({"message": f'"license" must be one of {sorted(known)}'})
        if data.get("pipeline_tag") not in {"text-classification", "image-text-to-image", None}:
            errors.append({"message": f'"pipeline_tag" {data["pipeline_tag"]!r} is unknown'})
        self.reply(400 if errors else 200, {"errors": errors, "warnings": []})

    def create_or_delete(self, match: re.Match) -> None:
        asked = json.loads(self.body)
        if self.user is None:
            raise Refused(401, "", "Invalid username or password.")
        kind = asked.get("type") or "model"
        name = f"{asked.get('organization') or self.user}/{asked['name']}"
        if name.split("/")[0] != self.user or self.token in READ_ONLY:
            raise Refused(403, "", f"You don't have the rights to create a {kind} under the namespace {name!r}.")
        if match[1] == "delete":
            del self.hub.repos[kind, name]
            return self.reply(200, {})
        prefix = "" if kind == "model" else f"{kind}s/"
        answer = {"url": f"{self.hub.url}/{prefix}{name}", "name": name, "id": name}
        if (kind, name) in self.hub.repos:
            return self.reply(409, answer | {"error": "You already created this repo"})
        options = {"private": asked.get("visibility") == "private", "sdk": asked.get("sdk")}
        self.hub.repos[kind, name] = Repo(kind, name, **options)
        self.reply(200, answer)

    def api(self, match: re.Match) -> None:
        kind, name = KINDS[match["kind"]], match["name"]
        action, _, rest = (match["rest"] or "").partition("/")
        if self.command in ("GET", "HEAD") and action in ("", "revision"):
            return self.info(self.find_repo(kind, name), rest or "main")
        if action == "refs":
            repo = self.find_repo(kind, name)
            heads = [{"name": r, "ref": f"refs/heads/{r}", "targetCommit": c} for r, c in repo.refs.items()]
            return self.reply(200, {"branches": heads, "tags": [], "converts": []})
        if action == "tree":
            return self.tree(self.find_repo(kind, name), rest)
        if action == "paths-info":
            return self.paths_info(self.find_repo(kind, name), rest)
        if action == "preupload":
            return self.preupload(self.writable(kind, name), rest)
        if action == "branch" and self.command == "POST":
            repo = self.writable(kind, name)
            start = json.loads(self.body or b"{}").get("startingPoint") or "main"
            if rest in repo.refs:
                raise Refused(409, "", f"Reference already exists: {rest}")
            repo.refs[rest] = repo.find(start)
            return self.reply(200, {})
        if action == "commit":
            return self.commit(self.writable(kind, name), rest)
        if action == "discussions":
            return self.reply(200, {"discussions": [], "count": 0, "start": 0})
        raise Refused(404, "", f"no such page: {self.path}")

    def info(self, repo: Repo, revision: str) -> None:
        sha = repo.find(revision)
        files = repo.commits[sha]
        card = re.match(rb"---\n(.*?)\n---", files["README.md"].content, re.DOTALL) if "README.md" in files else None
        self.reply(
            200,
            {
                "_id": "0" * 24,
                "id": repo.name,
                "sha": sha,
                "private": repo.private,
                "gated": "manual" if repo.gated else False,
                "disabled": False,
                "sdk": repo.sdk,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "createdAt": DATE,
                "lastModified": DATE,
                "cardData": yaml.safe_load(card[1]) if card else None,
                "siblings": [{"rfilename": path} for path in sorted(files)],
            },
        )

    def entry(self, path: str, file: File) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "oid": file.oid, "size": len(file.content), "path": path}
        if file.lfs:
            entry["lfs"] = {"oid": file.sha256, "size": len(file.content), "pointerSize": 130}
        return entry

    def entries(self, repo: Repo, revision: str) -> Iterator[dict[str, Any]]:
        folders = set()
        for path, file in sorted(repo.commits[repo.find(revision)].items()):
            for end in (i for i, letter in enumerate(path) if letter == "/"):
                if path[:end] not in folders:
                    folders.add(path[:end])
                    oid = hashlib.sha1(path[:end].encode()).hexdigest()
                    yield {"type": "directory", "oid": oid, "size": 0, "path": path[:end]}
            yield self.entry(path, file)

    def split(self, repo: Repo, rest: str) -> tuple[str, str]:
        """`<revision>/<path>`, where a revision may hold slashes itself: refs/pr/1."""
        names = [name for name in repo.refs if rest == name or rest.startswith(f"{name}/")]
        revision = max(names, key=len) if names else rest.split("/")[0]
        return revision, rest[len(revision) + 1 :]

    def tree(self, repo: Repo, rest: str) -> None:
        revision, folder = self.split(repo, rest)
        folder = folder.rstrip("/")
        inside = [e for e in self.entries(repo, revision) if not folder or e["path"].startswith(f"{folder}/")]
        if folder and not inside:
            raise Refused(404, "EntryNotFound", f"{folder} does not exist on {revision!r}")
        if self.query.get("recursive", "").lower() not in ("true", "1"):
            start = len(folder) + 1 if folder else 0
            inside = [e for e in inside if "/" not in e["path"][start:]]
        self.reply(200, inside)

    def paths_info(self, repo: Repo, rest: str) -> None:
        if self.headers.get_content_type() == "application/json":
            wanted = json.loads(self.body)["paths"]
        else:
            wanted = parse_qs(self.body.decode())["paths"]
        wanted = [wanted] if isinstance(wanted, str) else wanted
        self.reply(200, [e for e in self.entries(repo, self.split(repo, rest)[0]) if e["path"] in wanted])

    def preupload(self, repo: Repo, revision: str) -> None:
        files = repo.commits[repo.find(revision)]
        answer = [
            {
                "path": f["path"],
                "uploadMode": "lfs" if f["size"] > LFS_ABOVE or f["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
                "oid": files[f["path"]].etag if f["path"] in files else None,
            }
            for f in json.loads(self.body)["files"]
        ]
        self.reply(200, {"files": answer})

    def lfs_batch(self, match: re.Match) -> None:
        self.find_repo(KINDS[match["kind"] or "models"], match["name"])
        if self.user is None:
            raise Refused(401, "", "Invalid username or password.")
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.blobs:
                there = f"{self.hub.url}/lfs/{wanted['oid']}"
                answer["actions"] = {"upload": {"href": there, "header": {}}, "verify": {"href": f"{there}/verify"}}
            objects.append(answer)
        self.reply(200, {"transfer": "basic", "objects": objects}, {"Content-Type": "application/vnd.git-lfs+json"})

    def large_file(self, match: re.Match) -> None:
        oid = match["oid"]
        if self.command == "PUT":
            if hashlib.sha256(self.body).hexdigest() != oid:
                raise Refused(400, "", "the content does not match its checksum")
            self.hub.blobs[oid] = self.body
            return self.reply(200, b"")
        if match["verify"]:
            if len(self.hub.blobs.get(oid, b"")) != json.loads(self.body)["size"]:
                raise Refused(422, "", "the upload is incomplete")
            return self.reply(200, {})
        self.send_content(self.hub.blobs[oid], {"ETag": f'"{oid}"'})

    def commit(self, repo: Repo, revision: str) -> None:
        lines = [json.loads(line) for line in self.body.splitlines() if line]
        parent = repo.find(revision)
        files = dict(repo.commits[parent])
        message = "commit"
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
                if value.get("parentCommit", parent) != parent:
                    raise Refused(412, "", "A commit has happened since. Please refresh and try again.")
            elif line["key"] == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]), False)
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.blobs:
                    raise Refused(400, "", f"LFS pointer points to a file that does not exist: {value['path']}")
                files[value["path"]] = File(self.hub.blobs[value["oid"]], True)
            elif line["key"] == "deletedFile":
                if value["path"] not in files:
                    raise Refused(404, "EntryNotFound", "A file with this name doesn't exist")
                del files[value["path"]]
            elif line["key"] == "deletedFolder":
                files = {p: f for p, f in files.items() if not p.startswith(value["path"].rstrip("/") + "/")}
        number = None
        if self.query.get("create_pr"):
            number = 1 + sum(ref.startswith("refs/pr/") for ref in repo.refs)
        sha = repo.commit(f"refs/pr/{number}" if number else revision, files, message)
        prefix = "" if repo.kind == "model" else f"{repo.kind}s/"
        there = f"{self.hub.url}/{prefix}{repo.name}"
        answer = {"success": True, "commitOid": sha, "commitUrl": f"{there}/commit/{sha}", "hookOutput": ""}
        self.reply(200, answer | ({"pullRequestUrl": f"{there}/discussions/{number}"} if number else {}))

    def resolve(self, match: re.Match) -> None:
        repo = self.readable(KINDS[match["kind"] or "models"], match["name"])
        revision, path = self.split(repo, match["rest"])
        sha = repo.find(revision)
        file = repo.commits[sha].get(path)
        headers = {"X-Repo-Commit": sha}
        if file is None:
            message = f"{path} does not exist on {revision!r}"
            return self.reply(
                404, {"error": message}, headers | {"X-Error-Code": "EntryNotFound", "X-Error-Message": message}
            )
        headers["ETag"] = f'"{file.etag}"'
        if file.lfs:
            self.hub.blobs[file.sha256] = file.content
            headers |= {
                "X-Linked-Etag": f'"{file.sha256}"',
                "X-Linked-Size": str(len(file.content)),
                # Another host, as with the real one: clients read the headers above before they follow.
                "Location": f"{self.hub.url.replace('127.0.0.1', 'localhost')}/cdn/{file.sha256}",
            }
            return self.reply(302, b"", headers)
        self.send_content(file.content, headers)

    def send_content(self, content: bytes, headers: dict[str, str]) -> None:
        headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **headers}
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if not asked:
            return self.reply(200, content, headers)
        size = len(content)
        first = int(asked[1]) if asked[1] else max(0, size - int(asked[2]))
        last = min(int(asked[2]), size - 1) if asked[1] and asked[2] else size - 1
        if first >= size:
            return self.reply(416, b"", {"Content-Range": f"bytes */{size}"})
        self.reply(206, content[first : last + 1], headers | {"Content-Range": f"bytes {first}-{last}/{size}"})


HUB = LocalHub()  # the one that all tests use
