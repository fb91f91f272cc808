"""Edits in two steps: a page that shows what an edit would come to, and its confirmation, which writes exactly that.

Rule: whoever confirms has seen the diff: when a file has changed meanwhile they see the new one first. One edit is
written at a time. The audit trail has each outcome; a new key is on one answer and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import trio

from relayd.config.edit.commit import Author
from relayd.config.edit.toml_edit import EditError
from relayd.config.edit.tree_edit import Moved, TreeEdit
from relayd.config.problems.problem import Problem, is_error
from relayd.config.problems.report import as_dict
from relayd.config.secrets.recipients import SealError
from relayd.config.secrets.secret import Secret
from relayd.core.live import Live
from relayd.daemon.admin.documents import PROBLEMS_SHOWN, result_document
from relayd.daemon.admin.pages.audit import AuditEntry, AuditTrail
from relayd.daemon.admin.pages.drafts import HeldDraft, Waiting
from relayd.daemon.admin.pages.edit_tree import EditedTree, WrittenEdit
from relayd.daemon.admin.pages.table import Column, PageTable
from relayd.daemon.admin.pages.visit import ROOT, Page, PageRoute, Visit
from relayd.daemon.reload.requests import Reload, RequestQueue
from relayd.wire.current_models import SMALL
from relayd.wire.refusal import Refusal

PROBLEMS = (
    Column(name="severity"),
    Column(name="place"),
    Column(name="code"),
    Column(name="message"),
    Column(name="hint"),
)
AROUND = 100  # characters of a line on either side of a problem


@attrs.define(eq=False, kw_only=True)
class EditFlow:
    """From a wanted edit to the reload that brings it into force.

    Args:
        drafts: what was shown and not confirmed yet.
        public: addresses at which clients are served here, as http://host:port.
    """

    live: Live
    tree: EditedTree
    queue: RequestQueue
    audit: AuditTrail
    drafts: Waiting[HeldDraft]
    public: Callable[[], list[str]]
    _turn: trio.Lock = attrs.field(factory=trio.Lock, init=False)

    def routes(self) -> tuple[PageRoute, ...]:
        return (PageRoute(method="POST", pattern=f"{ROOT}/edit/confirm", need="editor", handler=self.confirm),)

    async def show(self, visit: Visit, edit: TreeEdit, minted: Secret | None = None) -> Page:
        """What an edit would come to. Raises: Refusal 400, 409."""
        try:
            found, why = await trio.to_thread.run_sync(self.tree.draft, edit)
        except Moved as error:
            raise Refusal(status=409, message=str(error), code="moved") from None
        except (EditError, SealError, LookupError, UnicodeDecodeError) as error:
            raise Refusal(status=400, message=said(error), code="edit") from None
        return await self._preview(visit, HeldDraft(draft=found, minted=minted), why)

    async def confirm(self, visit: Visit) -> Page:
        """Write a draft, commit it, push it where that is configured, and reload. Raises: Refusal 409."""
        assert visit.session is not None
        held = self.drafts.take(visit.session.csrf, visit.form.get("draft", ""), visit.now)
        if held is None:
            message = "this draft is no longer there (it was used, or is old): make the edit again"
            raise Refusal(status=409, message=message, code="draft")
        if visit.form.get("files") != held.draft.digest:
            raise Refusal(
                status=409, message="the form does not belong to this draft: make the edit again", code="draft"
            )
        author = Author(name=visit.visitor.name, email=visit.visitor.email)
        async with self._turn:
            try:
                written = await trio.to_thread.run_sync(self.tree.write, held.draft, author)
            except Moved as error:
                self._note(visit, held.draft.edit, "conflict")
                return await self._afresh(visit, held, str(error))
        if written.why:
            self._note(visit, held.draft.edit, f"not written: {written.why}")
            return await self._preview(visit, held, written.why, status=409)
        self._note(visit, held.draft.edit, f"ok: commit {written.commit[:12]}")
        return await self._done(visit, held, written)

    async def _afresh(self, visit: Visit, held: HeldDraft, moved: str) -> Page:
        """The same edit of the files as they are now."""
        page = await self.show(visit, held.draft.edit, held.minted)
        return attrs.evolve(page, status=409, values={**page.values, "moved": moved})

    async def _preview(self, visit: Visit, held: HeldDraft, why: str, *, status: int = 200) -> Page:
        assert visit.session is not None
        wanted = held.draft
        may = bool(wanted.after) and not wanted.brings and not why
        token = self.drafts.keep(visit.session.csrf, held, visit.now) if may else ""
        patch, apply = "", ""
        if why and wanted.after:
            patch, apply = await trio.to_thread.run_sync(self.tree.patch, wanted)
        rows = problem_rows(wanted.problems)
        document = {
            "what": wanted.edit.what,
            "subject": wanted.edit.subject,
            "diff": wanted.diff,
            "command": wanted.edit.command,
            "problems": [as_dict(problem) for problem in wanted.problems],
            "why_not": why,
            "brings_errors": wanted.brings,
        }
        values = {
            **document,
            "edit": wanted.edit,
            "lines": lines_of(wanted.diff),
            "files": sorted(wanted.after),
            "digest": wanted.digest,
            "draft": token,
            "may": may,
            "patch": patch,
            "apply": apply,
            "moved": "",
            **self._key_once(held if patch else None),
        }
        table = PageTable(name="problems", columns=PROBLEMS, rows=rows)
        return Page(
            template="edit_preview",
            title="edit.preview",
            values=values,
            tables=(table,),
            document=document,
            status=422 if wanted.brings else status,
        )

    async def _done(self, visit: Visit, held: HeldDraft, written: WrittenEdit) -> Page:
        remote = self.live.snapshot.relay.admin.push
        pushed: list[str] = []

        async def push() -> None:
            pushed.append(await trio.to_thread.run_sync(self.tree.push, remote))

        async with trio.open_nursery() as nursery:
            if remote:
                nursery.start_soon(push)
            result = await self.queue.request("http", Reload(expect=written.digest)).wait()
        if result.result not in ("applied", "unchanged"):
            self._note(visit, held.draft.edit, f"reload: {result.result}")
        if remote and pushed[0]:
            self._note(visit, held.draft.edit, pushed[0])
        verdict = result_document(result)
        rows = problem_rows(result.problems)
        values: dict[str, Any] = {
            "edit": held.draft.edit,
            "lines": lines_of(held.draft.diff),
            "written": written,
            "verdict": verdict,
            "remote": remote,
            "push_failed": pushed[0] if remote else "",
            **self._key_once(held),
        }
        table = PageTable(name="problems", columns=PROBLEMS, rows=rows)
        return Page(template="edit_done", title="edit.done", values=values, tables=(table,))

    def _key_once(self, held: HeldDraft | None) -> dict[str, Any]:
        """A new key, with what to type for each client. Whoever applies a patch by hand gets it with the patch."""
        if held is None or held.minted is None:
            return {"key": "", "clients": []}
        key = held.minted.reveal()
        return {"key": key, "clients": client_lines(self.public(), key)}

    def _note(self, visit: Visit, edit: TreeEdit, result: str) -> None:
        act = AuditEntry(
            at=visit.now,
            who=visit.visitor.name,
            what=edit.what,
            subject=edit.subject,
            address=visit.address,
            result=result,
        )
        self.audit.note(act)


def lines_of(diff: str) -> list[tuple[str, str]]:
    """A diff's lines, each with the word for how it looks."""

    def look(line: str) -> str:
        if line.startswith(("+++", "---", "diff ", "@@", "new file", "deleted file")):
            return "soft"
        return {"+": "plus", "-": "minus"}.get(line[:1], "")

    return [(look(line), line) for line in diff.split("\n")[:-1]]


def client_lines(addresses: list[str], key: str) -> list[tuple[str, str]]:
    """What to type for each client, with a key that was just made."""
    found = next((one for one in addresses if one.startswith("http")), "http://127.0.0.1:3000")
    base = found.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    ask = f'{{"model": "{SMALL}", "max_tokens": 100, "messages": [{{"role": "user", "content": "Hello"}}]}}'
    headers = f"-H 'x-api-key: {key}' -H 'anthropic-version: 2023-06-01' -H 'content-type: application/json'"
    return [
        ("Claude Code", f"export ANTHROPIC_BASE_URL={base}\nexport ANTHROPIC_AUTH_TOKEN={key}\nclaude"),
        ("Anthropic SDK", f'client = anthropic.Anthropic(base_url="{base}", api_key="{key}")'),
        ("OpenAI SDK", f'client = openai.OpenAI(base_url="{base}/v1", api_key="{key}")'),
        ("curl", f"curl {base}/v1/messages {headers} \\\n  -d '{ask}'"),
    ]


def problem_rows(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """Problems as rows, errors first, as many as a page has room for."""
    return [placed(one) for one in sorted(problems, key=lambda one: not is_error(one))[:PROBLEMS_SHOWN]]


def placed(problem: Problem) -> dict[str, Any]:
    """A problem as a row, with its place in one text, and the line that it is about in three: what stands before, at
    and behind the place."""
    found = as_dict(problem)
    place = ":".join(str(found[name]) for name in ("file", "line", "column") if found[name])
    text, start = problem.excerpt, max(0, problem.column - 1)
    end = max(problem.end_column - 1, start + 1)
    around = text[max(0, start - AROUND) : start], text[start:end][:AROUND], text[end : end + AROUND]
    row = {column.name: found.get(column.name, "") for column in PROBLEMS}
    return {**row, "place": place, "around": around if text else (), "file": problem.file}


def said(error: Exception) -> str:
    """An expected failure in words."""
    if isinstance(error, UnicodeDecodeError):
        return "a file of the tree is not UTF-8 text"
    return str(error.args[0] if error.args else error)
