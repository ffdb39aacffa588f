"""A small stand-in for the Hugging Face Hub, on loopback: repositories, commits, LFS and Xet.

Users: token ``hf_test`` is user ``me`` with organization ``acme``; ``hf_ro`` is ``ro``, who may
only read. The attributes of `Hub` set what it refuses or breaks.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.storage.hub.hub_state import USERS, Hub, RefusalError, Repo, is_lfs


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer waits 40 ms for the client's acknowledgement
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(
        self, body: Any = b"", status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        stated = {"Content-Type": "application/json", "Content-Length": str(len(data))}
        self.send_response(status)
        for key, value in {**stated, **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if self.cut else data)
        if self.cut:
            self.hang_up()

    def hang_up(self) -> None:
        """Cut the connection."""
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            size = int(self.headers.get("Content-Length") or 0)
            if self.cut:
                self.rfile.read(size // 2)
                self.hang_up()
                raise ConnectionAbortedError
            return self.rfile.read(size)
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def serve(self) -> None:
        host = self.headers["Host"]
        self.base = f"http://{host}"
        # A client's HEAD follows redirects to the same host and loses X-Repo-Commit: use another.
        self.cdn = self.base.replace("127.0.0.1", "localhost")
        address = urlsplit(self.path)
        self.query = parse_qs(address.query)
        self.hub.log.append(f"{self.command} {self.path}")
        planning = address.path.startswith("/_plan/")
        self.cut = not planning and self.due(self.hub.dropping)
        try:
            if not planning and self.due(self.hub.failing):
                raise RefusalError(503, None, "out of order")
            for part, odd_answer in self.hub.odd.items():
                if part in f"{self.command} {self.path}":
                    return odd_answer(self)
            for methods, pattern, function in ROUTES:
                matched = re.fullmatch(pattern, address.path)
                if matched and self.command in methods.split("|"):
                    with nullcontext() if function in UNLOCKED else self.hub.lock:
                        function(self, *[unquote(group or "") for group in matched.groups()])
                    return
            raise RefusalError(404, None, f"no route: {self.command} {address.path}")
        except ConnectionError:
            self.close_connection = True
        except RefusalError as refusal:
            self.close_connection = self.command in ("POST", "PUT")  # the body may be unread
            headers = {"X-Error-Message": refusal.message}
            if refusal.code:
                headers["X-Error-Code"] = refusal.code
            self.answer({"error": refusal.message}, refusal.status, headers)

    do_GET = do_POST = do_PUT = do_HEAD = serve  # noqa: N815

    def due(self, planned: dict[str, int]) -> bool:
        """Return whether something is planned for this request; it is counted then."""
        for part, times in planned.items():
            if part in f"{self.command} {self.path}" and times:
                planned[part] -= 1
                return True
        return False

    def plan(self, kind: str, part: str) -> None:
        """Let a test's own process say what is to go wrong from now on, and that all is well."""
        for planned in (self.hub.failing, self.hub.dropping):
            planned.clear()
        if kind != "nothing":
            getattr(self.hub, kind)[part] = int(self.query["times"][0])
        self.answer()

    # --- who asks, and for what

    def user(self) -> dict[str, Any] | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in USERS:
            raise RefusalError(401, None, "Invalid credentials in Authorization header")
        return USERS.get(token)

    def writer(self, owner: str) -> dict[str, Any]:
        user = self.user()
        if not user:
            raise RefusalError(401, None, "Invalid username or password.")
        if user["role"] != "write" or owner not in (user["name"], *user["orgs"]):
            raise RefusalError(403, None, f"You don't have the rights to write to {owner}")
        return user

    def repo(self, repo_id: str, write: bool = False) -> Repo:
        user, repo = self.user(), self.hub.repos.get(repo_id)
        owner = repo_id.partition("/")[0]
        hidden = repo and repo.private and (not user or owner not in (user["name"], *user["orgs"]))
        if repo is None or hidden:
            raise RefusalError(404 if user else 401, "RepoNotFound", "Repository not found")
        if write:
            self.writer(owner)
        return repo

    def whoami(self) -> None:
        user = self.user()
        if not user:
            raise RefusalError(401, None, "Invalid username or password.")
        token = {"displayName": "test", "role": user["role"]}
        self.answer(
            {
                "type": "user",
                "id": "0",
                "name": user["name"],
                "fullname": user["name"],
                "orgs": [{"type": "org", "name": name} for name in user["orgs"]],
                "auth": {"type": "access_token", "accessToken": token},
            }
        )

    # --- repositories

    def create(self) -> None:
        asked = json.loads(self.body())
        owner = asked.get("organization") or (self.user() or {}).get("name") or ""
        self.writer(owner)
        repo_id = f"{owner}/{asked['name']}"
        url = f"{self.base}/{repo_id}"
        if repo_id in self.hub.repos:
            return self.answer({"error": "You already created this model repo", "url": url}, 409)
        private = bool(asked.get("private") or asked.get("visibility") == "private")
        repo = self.hub.repos[repo_id] = Repo(private)
        repo.refs["main"] = repo.add({}, None, {"title": "initial commit"})
        self.answer({"url": url, "name": repo_id, "id": "0"})

    def listing(self) -> None:
        (author,) = self.query["author"]
        self.answer(
            [self.described(name) for name in self.hub.repos if name.startswith(f"{author}/")]
        )

    def info(self, repo_id: str, revision: str = "") -> None:
        self.answer(self.described(repo_id, revision))

    def described(self, repo_id: str, revision: str = "") -> dict[str, Any]:
        repo = self.repo(repo_id)
        commit = repo.commit_of(revision or "main")
        return {
            "_id": "0",
            "id": repo_id,
            "modelId": repo_id,
            "sha": commit,
            "private": repo.private,
            "gated": "auto" if repo.gated else False,
            "disabled": False,
            "author": repo_id.partition("/")[0],
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": [self.sibling(*item) for item in repo.files(commit).items()],
        }

    def sibling(self, name: str, digest: str) -> dict[str, Any]:
        if "blobs" not in self.query or not self.hub.tells_sizes:
            return {"rfilename": name}
        entry = self.hub.entry(name, digest)
        return {"rfilename": name, "size": entry["size"], "blobId": entry["oid"]}

    def branch(self, repo_id: str, name: str) -> None:
        repo = self.repo(repo_id, write=True)
        asked = json.loads(self.body() or b"{}")
        if name in repo.refs:
            raise RefusalError(409, None, "Reference already exists")
        repo.refs[name] = repo.commit_of(asked.get("startingPoint") or "main")
        self.answer({})

    def tree(self, repo_id: str, revision: str) -> None:
        files = self.repo(repo_id).files(revision)
        self.answer([self.hub.entry(name, files[name]) for name in sorted(files)])

    def below(self, repo_id: str, revision: str, path: str) -> None:
        files = self.repo(repo_id).files(revision)
        names = [name for name in sorted(files) if name.startswith(f"{unquote(path)}/")]
        if not names:
            raise RefusalError(404, "EntryNotFound", f"{path} does not exist")
        self.answer([self.hub.entry(name, files[name]) for name in names])

    def paths_info(self, repo_id: str, revision: str) -> None:
        files = self.repo(repo_id).files(revision)
        data = self.body()
        asked = json.loads(data) if data[:1] == b"{" else parse_qs(data.decode())
        names = [name for name in asked.get("paths", []) if name in files]
        self.answer([self.hub.entry(name, files[name]) for name in names])

    # --- uploads

    def changed(self, repo_id: str, revision: str) -> Repo:
        """Return the repository, if the user may change it or opens a pull request."""
        proposed = "create_pr" in self.query or unquote(revision).startswith("refs/pr/")
        repo = self.repo(repo_id, write=not proposed)
        if not self.user():
            raise RefusalError(401, None, "Invalid username or password.")
        return repo

    def preupload(self, repo_id: str, revision: str) -> None:
        repo = self.changed(repo_id, revision)
        files = repo.files(revision)
        body = []
        for entry in json.loads(self.body())["files"]:
            name = entry["path"]
            old = self.hub.entry(name, files[name]) if name in files else {}
            body.append(
                {
                    "path": name,
                    "uploadMode": "lfs" if is_lfs(name) else "regular",
                    "shouldIgnore": False,
                    "oid": old.get("lfs", old).get("oid"),
                }
            )
        self.answer({"files": body})

    def batch(self, repo_id: str) -> None:
        self.repo(repo_id)
        asked = json.loads(self.body())
        body = []
        for large in asked["objects"]:
            entry = {"oid": large["oid"], "size": large["size"], "authenticated": True}
            if large["oid"] not in self.hub.blobs:
                verify = f"{self.base}/{repo_id}.git/info/lfs/objects/verify"
                entry["actions"] = {
                    "upload": {"href": f"{self.base}/_lfs/{large['oid']}", "header": {}},
                    "verify": {"href": verify, "header": {}},
                }
            body.append(entry)
        way = "xet" if self.hub.xet and "xet" in asked["transfers"] else "basic"
        self.answer({"transfer": way, "objects": body})

    def upload(self, digest: str) -> None:
        if self.hub.put(self.body()) != digest:
            raise RefusalError(422, None, "sha256 mismatch")
        self.answer()

    def uploaded(self, repo_id: str) -> None:
        asked = json.loads(self.body())
        if len(self.hub.blobs.get(asked["oid"], b"")) != asked["size"]:
            raise RefusalError(404, None, "object not found")
        self.answer({})

    def commit(self, repo_id: str, revision: str) -> None:
        as_pull = self.query.get("create_pr", ["0"])[0] == "1"
        repo, user = self.changed(repo_id, revision), self.user() or {}
        parent = repo.commit_of(revision)
        files, head = repo.files(parent), {}
        for line in self.body().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                head = {"title": value["summary"], "description": value.get("description", "")}
            elif entry["key"] == "file":
                files[value["path"]] = self.hub.put(base64.b64decode(value["content"]))
            elif entry["key"] == "lfsFile":
                if value["oid"] not in self.hub.blobs and self.hub.xet:
                    self.hub.put(self.hub.xet.content(value["oid"], self.base) or b"")
                if value["oid"] not in self.hub.blobs:
                    raise RefusalError(400, None, f"the file was not uploaded: {value['path']}")
                files[value["path"]] = value["oid"]
        commit = repo.add(files, parent, head)
        body = {"commitOid": commit, "commitUrl": f"{self.base}/{repo_id}/commit/{commit}"}
        if as_pull:
            number = repo.open_pull(head["title"], user["name"], commit)
            body["pullRequestUrl"] = f"{self.base}/{repo_id}/discussions/{number}"
        else:
            repo.refs[revision] = commit
        self.answer({"success": True, "hookOutput": "", **body})

    def discussions(self, repo_id: str) -> None:
        repo = self.repo(repo_id)
        if self.command == "POST":
            user = self.user()
            if not user:
                raise RefusalError(401, None, "Invalid username or password.")
            title = json.loads(self.body())["title"]
            return self.answer({"num": repo.open_pull(title, user["name"], repo.refs["main"])})
        body = [self.pull(repo_id, each) for each in repo.pulls]
        self.answer(
            {"discussions": body, "count": len(body), "start": 0, "numClosedDiscussions": 0}
        )

    def discussion(self, repo_id: str, number: str) -> None:
        self.answer(self.pull(repo_id, self.repo(repo_id).pulls[int(number) - 1]))

    def pull(self, repo_id: str, pull: dict[str, Any]) -> dict[str, Any]:
        return {
            **pull,
            "author": {"name": pull["author"]},
            "createdAt": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(0)),
            "isPullRequest": True,
            "events": [],
            "filesWithConflicts": [],
            "changes": {"base": "refs/heads/main"},
            "repo": {"name": repo_id, "type": "model"},
            "numComments": 0,
        }

    def validate_card(self) -> None:
        asked = json.loads(self.body())
        front = asked["content"].split("---")[1:2]
        wrong = any(line.strip() == "license: nonsense" for line in "".join(front).splitlines())
        errors = [{"message": '"license" must be one of [apache-2.0, mit, …]'}] if wrong else []
        self.answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    # --- downloads

    def resolve(self, repo_id: str, revision: str, name: str) -> None:
        repo = self.repo(repo_id)
        if repo.gated and not self.user():
            raise RefusalError(401, "GatedRepo", f"Access to model {repo_id} is restricted")
        commit = repo.commit_of(revision)
        headers = {"X-Repo-Commit": commit}
        digest = repo.files(commit).get(name)
        if digest is None:
            missing = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            return self.answer({"error": "Entry not found"}, 404, {**headers, **missing})
        entry = self.hub.entry(name, digest)
        headers["ETag"] = f'"{entry["oid"]}"'
        if "lfs" in entry:
            headers["X-Linked-Size"] = str(entry["size"])
            headers["X-Linked-Etag"] = f'"{digest}"'
            headers["Location"] = f"{self.cdn}/_blob/{digest}"
            if "xetHash" in entry:
                route = f"{self.base}/api/models/{repo_id}/xet-read-token/{commit}"
                headers["X-Xet-Hash"] = entry["xetHash"]
                headers["X-Xet-Refresh-Route"] = route
                headers["Link"] = f'<{route}>; rel="xet-auth"'
            return self.answer(b"", 302, headers)
        self.blob(digest, headers)

    def blob(self, digest: str, headers: dict[str, str] | None = None) -> None:
        data = self.hub.blobs.get(digest)
        if data is None:
            raise RefusalError(404, None, "no such blob")
        if self.hub.expired:
            self.hub.expired -= 1
            raise RefusalError(403, None, "the signature has expired")
        self.part(data, digest, headers)

    def part(self, data: bytes, digest: str, headers: dict[str, str] | None = None) -> None:
        """Answer with the part of `data` that is asked for."""
        stated = {"Accept-Ranges": "bytes", "ETag": f'"{digest}"', **(headers or {})}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        token = self.headers.get("Authorization", "")
        if asked is None or not self.hub.knows_ranges:
            self.hub.served.append((self.path, token, len(data)))
            return self.answer(data, 200, stated)
        first, last = int(asked[1]), min(int(asked[2] or len(data) - 1), len(data) - 1)
        stated["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self.hub.served.append((self.path, token, last + 1 - first))
        self.answer(data[first : last + 1], 206, stated)

    # --- Xet

    def xet_token(self, repo_id: str, kind: str, revision: str) -> None:
        if self.hub.xet is None:
            raise RefusalError(404, None, "no Xet here")
        repo = self.changed(repo_id, revision) if kind == "write" else self.repo(repo_id)
        if "create_pr" not in self.query:  # with it, clients name the revision "None"
            repo.commit_of(unquote(revision))
        self.answer(
            {"casUrl": f"{self.base}/_cas", "exp": int(time.time()) + 3600, "accessToken": "xet"},
            headers={
                "X-Xet-Cas-Url": f"{self.base}/_cas",
                "X-Xet-Access-Token": "xet",
                "X-Xet-Token-Expiration": str(int(time.time()) + 3600),
            },
        )

    def cas(self, version: str, rest: str) -> None:
        xet = self.hub.xet
        assert xet is not None
        kind, _, name = rest.rpartition("/")
        if self.command == "POST" and kind == "xorbs/default":
            xet.xorbs[name] = self.body()
            return self.answer({"was_inserted": True})
        if self.command == "POST" and (version, rest) == ("1", "shards"):
            xet.add_shard(self.body())
            return self.answer({"result": 1})
        if version == "1" and kind == "reconstructions" and name in xet.files:
            body = xet.reconstruction(name, self.base, self.headers.get("Range", ""))
            return self.answer(body or {"error": "range"}, 200 if body else 416)
        raise RefusalError(404, None, "not found")  # the client does without

    def xorb(self, name: str) -> None:
        assert self.hub.xet is not None
        self.part(self.hub.xet.xorbs[name], name)


_R = r"([^/]+/[^/]+)"
_A = rf"/api/models/{_R}"
ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", r"/_plan/(failing|dropping|nothing)/?(.*)", Handler.plan),
    ("GET", r"/api/whoami-v2", Handler.whoami),
    ("POST", r"/api/repos/create", Handler.create),
    ("POST", r"/api/validate-yaml", Handler.validate_card),
    ("GET", r"/api/models", Handler.listing),
    ("GET", _A, Handler.info),
    ("GET", _A + r"/revision/(.+)", Handler.info),
    ("GET", _A + r"/tree/([^/]+)", Handler.tree),
    ("GET", _A + r"/tree/([^/]+)/(.+)", Handler.below),
    ("POST", _A + r"/paths-info/(.+)", Handler.paths_info),
    ("POST", _A + r"/branch/(.+)", Handler.branch),
    ("POST", _A + r"/preupload/(.+)", Handler.preupload),
    ("POST", _A + r"/commit/(.+)", Handler.commit),
    ("GET|POST", _A + r"/discussions", Handler.discussions),
    ("GET", _A + r"/discussions/(\d+)", Handler.discussion),
    ("POST", rf"/{_R}\.git/info/lfs/objects/batch", Handler.batch),
    ("POST", rf"/{_R}\.git/info/lfs/objects/verify", Handler.uploaded),
    ("PUT", r"/_lfs/([0-9a-f]{64})", Handler.upload),
    ("GET|HEAD", r"/_blob/([0-9a-f]{64})", Handler.blob),
    ("GET|HEAD", rf"/{_R}/resolve/([^/]+)/(.+)", Handler.resolve),
    ("GET", _A + r"/xet-(read|write)-token/(.+)", Handler.xet_token),
    ("GET|POST", r"/_cas/v([12])/(.+)", Handler.cas),
    ("GET|HEAD", r"/_xorb/([0-9a-f]{64})", Handler.xorb),
]
UNLOCKED = {Handler.cas, Handler.xorb}
"""Asked for while a commit waits for the answer."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Do nothing: clients may disconnect."""


@contextmanager
def serving(xet: bool = False) -> Iterator[tuple[Hub, str]]:
    """Run a server; yield its state and the address for HF_ENDPOINT."""
    hub = Hub(xet)
    handler = type("BoundHandler", (Handler,), {"hub": hub})
    server = _Server(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def asked() -> Iterator[tuple[Hub, str]]:
    """Run a server that this process may use although tests run offline."""
    from huggingface_hub import constants
    from huggingface_hub.utils._http import reset_sessions

    offline = constants.HF_HUB_OFFLINE
    with serving() as running:
        constants.HF_HUB_OFFLINE = False
        reset_sessions()
        try:
            yield running
        finally:
            constants.HF_HUB_OFFLINE = offline
            reset_sessions()
