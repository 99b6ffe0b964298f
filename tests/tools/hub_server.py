"""A stand-in of the Hugging Face Hub's HTTP API on loopback: create a repository, upload, commit and download files."""

import base64
import hashlib
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class Hub:
    """Files by repository and commit, in order."""

    def __init__(self):
        self.repos, self.blobs, self.private = {}, {}, {}

    def files(self, repo, revision):
        """Return the commit and the files of a revision: a branch, or a commit's name."""
        commits = self.repos[repo]
        name = next(reversed(commits)) if revision == "main" else revision
        return name, commits[name]

    def commit(self, repo, lines):
        """Apply a commit, which is lines of JSON."""
        files = dict(next(reversed(self.repos[repo].values())))
        for line in map(json.loads, lines):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        name = hashlib.sha1(repr(sorted((k, hashlib.sha256(v).hexdigest()) for k, v in files.items())).encode()).hexdigest()
        self.repos[repo][name] = files
        return name


class Handler(BaseHTTPRequestHandler):
    """Routes of the API that huggingface_hub calls."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, content=b"", status=200, head=False, **headers):
        body = json.dumps(content).encode() if isinstance(content, dict | list) else content
        self.send_response(status)
        for key, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(b"" if head else body)

    def body(self):
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_POST(self):
        hub, body = self.server.hub, self.body()
        here = f"http://{self.headers['Host']}"
        if self.headers.get("Authorization") != "Bearer hf_secret":
            return self.answer({"error": "Invalid username or password."}, 401)
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            if repo in hub.repos:
                return self.answer({"error": "exists", "url": f"{here}/{repo}"}, 409)
            hub.repos[repo], hub.private[repo] = {"0" * 40: {}}, asked.get("visibility") == "private"
            return self.answer({"url": f"{here}/{repo}", "id": repo})
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if self.path.endswith("/preupload/main"):
            kinds = {True: "lfs", False: "regular"}
            files = [
                {
                    "path": file["path"],
                    "uploadMode": kinds[file["path"].endswith((".safetensors", ".png"))],
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self.answer({"files": files})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**each, "actions": {"upload": {"href": f"{here}/blobs/{each['oid']}"}}} for each in json.loads(body)["objects"]
            ]
            return self.answer({"transfer": "basic", "objects": objects})
        if self.path.endswith("/commit/main"):
            repo = self.path.removeprefix("/api/models/").removesuffix("/commit/main")
            name = hub.commit(repo, body.splitlines())
            return self.answer({"commitUrl": f"{here}/{repo}/commit/{name}", "commitOid": name, "hookOutput": ""})
        return self.answer({"error": self.path}, 404)

    def do_PUT(self):
        body = self.body()
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.hub.blobs[oid] = body
        self.answer()

    def do_HEAD(self):
        self.do_GET(head=True)

    def do_GET(self, head=False):
        hub = self.server.hub
        owner, name, route, *rest = [*self.path.strip("/").split("/"), "", "", ""]
        repo = f"{owner}/{name}"
        if self.path.startswith("/api/models/"):
            repo = "/".join(self.path.split("/")[3:5])
            sha = hub.files(repo, "main")[0] if repo in hub.repos else None
            if "/tree/" in self.path:
                every = [{"type": "file", "path": path, "size": 1, "oid": "0"} for path in hub.files(repo, "main")[1]]
                return self.answer(every, head=head)
            return self.answer({"id": repo, "sha": sha, "private": bool(hub.private.get(repo))}, 200 if sha else 404, head)
        if route != "resolve" or repo not in hub.repos:
            return self.answer({"error": "Repository not found"}, 404, head, X_Error_Code="RepoNotFound")
        try:
            commit, files = hub.files(repo, rest[0])
        except KeyError:
            return self.answer({"error": "Revision not found"}, 404, head, X_Error_Code="RevisionNotFound")
        if rest[1] not in files:
            return self.answer({"error": "Entry not found"}, 404, head, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        content = files[rest[1]]
        return self.answer(content, 200, head, X_Repo_Commit=commit, ETag=f'"{hashlib.sha256(content).hexdigest()}"')


@contextmanager
def serving():
    """Serve a `Hub` on a free port of loopback; yield it and its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hub = Hub()
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.hub, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
