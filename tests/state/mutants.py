# ruff: noqa: E501
"""Plants faults in the admission and settlement code of both back ends, one at a time, and runs the state machine.

`python tests/state/mutants.py [N]` prints each mutant with "killed" or "SURVIVED" and exits 1 if any survived. N is the
number of examples (default 400). The tree is copied; nothing is changed in place.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]

MUTANTS = [
    # notes, Redis
    ("apply.lua", "if newest < since then since = 0 end", ""),
    ("apply.lua", "if newest > 0 and newest == since then", "if newest > 0 and newest == since + 1 then"),
    # admission, Redis
    ("apply.lua", "if sum + term[5] > term[4] then return rolling", "if sum + term[5] > term[4] + 1 then return rolling"),
    ("apply.lua", "if sum + term[5] > term[4] then return rolling", "if sum + term[5] >= term[4] then return rolling"),
    ("apply.lua", "if flat[i + 2] + window > now then", "if flat[i + 2] + window >= now then"),
    ("apply.lua", "if flat[i + 2] + window > now then", "if flat[i] * 17 + window > now then"),
    ("apply.lua", "if last > live[i + 2] then live[i + 2] = last end", ""),
    ("apply.lua", "if sum + term[5] <= term[4] then return bucket[1]", "if sum + term[5] < term[4] then return bucket[1]"),
    ("apply.lua", "return x[1] < y[1] end)\n  for", "return x[1] > y[1] end)\n  for"),
    ("apply.lua", "if used + term[5] > term[4] then", "if used + term[5] > term[4] + term[5] then"),
    ("apply.lua", "return term[7] - now, nil, used", "return term[7] - now + 1, nil, used"),
    ("apply.lua", "(now < term[6] or now >= term[7])", "(now < term[6] or now > term[7])"),
    ("apply.lua", "(now < term[6] or now >= term[7])", "(now >= term[7])"),
    ("apply.lua", "if count >= term[4] then", "if count > term[4] then"),
    ("apply.lua", "'-inf', now)\n  local count", "'-inf', now - 1)\n  local count"),
    ("apply.lua", "if call('ZSCORE', key, holder) then return nil, nil, count - 1 end", ""),
    ("apply.lua", "if retry and retry > worst then", "if retry and retry >= worst then"),
    ("apply.lua", "if worst >= 0 then return {'denied'", "if worst > 60000 then return {'denied'"),
    ("apply.lua", "if seen > now and seen - now <= BACKWARD then now = seen end", ""),
    ("apply.lua", "if found and found[1] == 'O' then return {'granted', now, {}, true} end", ""),
    ("apply.lua", "if found then return {'closed'} end", ""),
    ("apply.lua", "found[1] ~= 'O' and found[2] <= now", "found[1] ~= 'O' and found[2] < now"),
    ("apply.lua", "local bucket = math.floor(now / term[7])", "local bucket = math.floor(now / term[7] / 3)"),
    # settlement, Redis
    ("apply.lua", "if found and found[1] == 'S' then return {'settled', 'again'} end", ""),
    ("apply.lua", "call('ZREM', prefix .. 's:' .. term[2], id)", ""),
    ("apply.lua", "local delta = actual - term[4]", "local delta = term[4] - actual"),
    ("apply.lua", "term[4] = actual\n", "\n"),
    ("apply.lua", "if found[1] == 'R' then book(found[4], -1) end", ""),
    ("apply.lua", "close(id, found)\n  elseif", "elseif"),
    ("apply.lua", "settle(id, record, terms, at) return settle(id, record, terms, at)", "settle(id, record, terms, at) return settle(id, record, terms, now)"),
    ("apply.lua", "'-inf', now, 'LIMIT'", "'-inf', now - 1, 'LIMIT'"),
    ("apply.lua", "amount(found[5], 'tokens') > 0", "true"),
    ("apply.lua", "amount(found[5], 'tokens') > 0", "amount(found[5], 'tokens') > 1"),
    ("apply.lua", "amount(found[5], 'tokens') > 0", "amount(found[5], 'tokens') >= amount(record, 'tokens')"),
    ("apply.lua", "if found and found[1] == 'O' and found[2] > now then", "if found and found[1] == 'O' then"),
    ("apply.lua", "if expires and tonumber(expires) > now then\n      hold", "if expires then\n      hold"),
    ("apply.lua", "math.min(at, now)", "at"),
    # admission, SQLite
    ("sqlite_counting.py", "self._rolling_retry(sql, term, used) if used + term.cost > term.limit else -1", "self._rolling_retry(sql, term, used) if used + term.cost > term.limit + 1 else -1"),
    ("sqlite_counting.py", "self._rolling_retry(sql, term, used) if used + term.cost > term.limit else -1", "self._rolling_retry(sql, term, used) if used + term.cost >= term.limit else -1"),
    ("sqlite_counting.py", "FROM buckets WHERE counter = ? AND expires > ?)\",\n    Calendar", "FROM buckets WHERE counter = ? AND expires >= ?)\",\n    Calendar"),
    ("sqlite_counting.py", "expires = max(expires, excluded.expires)", "expires = expires"),
    ("sqlite_counting.py", "iif(expires > ?, amount, 0)", "iif(?, amount, 0)"),
    ("sqlite_counting.py", "            if used + term.cost <= term.limit:", "            if used + term.cost < term.limit:"),
    ("sqlite_counting.py", "expires > ? ORDER BY expires\"", "expires > ? ORDER BY expires DESC\""),
    ("sqlite_counting.py", "if used + term.cost > term.limit:\n                    return c.never", "if used > term.limit:\n                    return c.never"),
    ("sqlite_counting.py", "else term.end - self.now", "else term.end - self.now + 1"),
    ("sqlite_counting.py", "not term.start <= now < term.end", "not term.start <= now <= term.end"),
    ("sqlite_counting.py", "if held or used < term.limit", "if held or used <= term.limit"),
    ("sqlite_counting.py", "if held or used < term.limit", "if used < term.limit"),
    ("sqlite_counting.py", "            if retry > worst:", "            if retry >= worst:"),
    ("sqlite_counting.py", "if worst >= 0:", "if worst > 60_000:"),
    ("sqlite.py", "self._counting.now = now = seen if now < seen <= now + c.BACKWARD_MS else now", "self._counting.now = now"),
    ("sqlite_counting.py", "bucket = now // c.bucket_length(term.window)", "bucket = now // c.bucket_length(term.window) // 3"),
    ("sqlite_counting.py", "EXISTS (SELECT 1 FROM done WHERE id = ? AND expires > ?)", "EXISTS (SELECT 1 FROM done WHERE id = ? AND expires >= ?)"),
    ("apply.lua", "-1 - math.floor(at / term[7])", "math.floor(at / term[7])"),
    ("sqlite_counting.py", "bucket = -1 - at // c.bucket_length", "bucket = at // c.bucket_length"),
    # settlement, SQLite
    ("sqlite_counting.py", "            if done and done[0] is None:\n                return c.Settled(outcome=\"again\")\n", ""),
    ("sqlite_counting.py", "(actual - charged, counter, start)", "(charged - actual, counter, start)"),
    ("sqlite_counting.py", "after.append((kind, counter, unit, actual, start))", "after.append((kind, counter, unit, charged, start))"),
    ("sqlite_counting.py", "                gathered.book(negative(tuple(_decode_row(done[1]))))\n", ""),
    ("sqlite_counting.py", "sql(_TAKE_SLOT, (counter, call))", "pass"),
    ("sqlite_counting.py", "(\"expires <= ?\",", "(\"expires < ?\","),
    ("sqlite_counting.py", "SELECT terms FROM open WHERE id = ? AND expires > ?", "SELECT terms FROM open WHERE id = ? AND expires >= ?"),
    ("sqlite_counting.py", "min(at, self.now)", "at"),
    ("sqlite_counting.py", "AND holder = ? AND expires > ?\"", "AND holder = ? AND expires >= ?\""),
    ("contract.py", "checkpoint.tokens == 0", "False"),
    ("contract.py", "checkpoint.tokens == 0", "checkpoint.tokens < orphan.tokens"),
    ("sqlite.py", "max(kept, self._counting.now)", "kept"),
    ("sqlite_counting.py", "FROM open WHERE key = ?", "FROM open WHERE key <> ?"),
    ("apply.lua", "key == '' or names[1] == key", "true"),
    ("contract.py", "checkpoint is None or checkpoint.tokens == 0", "checkpoint is None"),
    # reservations of open calls, Redis
    ("apply.lua", "if likely and likely < retry then", "if likely then"),
    ("apply.lua", "used = used - held_of(found, term, live)", "used = used - 2 * held_of(found, term, live)"),
    ("apply.lua", "if kept[1] == 'C' then return kept[5] == term[6] and kept[4] or 0 end", "if kept[1] == 'C' then return 0 end"),
    ("apply.lua", "if kept[1] == 'C' then return kept[5] == term[6] and kept[4] or 0 end", "if kept[1] == 'C' then return kept[4] end"),
    ("apply.lua", "if live[i] == kept[6] then return kept[4] end", "do return kept[4] end"),
    ("apply.lua", "term[1] == 'S' or term[3] == 'requests'", "term[1] == 'S'"),
    ("apply.lua", "now + likely, id)", "now, id)"),
    ("apply.lua", "math.max(tonumber(rows[i + 1]) - now, 1)", "tonumber(rows[i + 1]) - now"),
    ("apply.lua", "local index = prefix .. 'h:' .. key", "local index = prefix .. 'h:' .. 'dev'"),
    ("apply.lua", "term[5] > 0 then return true", "term[5] > 1 then return true"),
    ("apply.lua", "worst, index, worst_held = retry, i, held or false", "worst, index, worst_held = retry, i, worst_held or held or false"),
    # reservations of open calls, SQLite
    ("sqlite_counting.py", "if likely is not None and likely < retry:", "if likely is not None:"),
    ("sqlite_counting.py", "retry, held = likely, True", "held = True"),
    ("sqlite_counting.py", "if counter == term.counter and start in counted", "if counter == term.counter"),
    ("sqlite_counting.py", "if counter == term.counter and start in counted", "if start in counted"),
    ("sqlite_counting.py", "(op.orphan.key, self.now + op.likely) if holds", "(op.orphan.key, self.now) if holds"),
    ("sqlite_counting.py", "FROM open WHERE key = ? AND key <> ''", "FROM open WHERE key >= ? AND key <> ''"),
    ("sqlite_counting.py", "ORDER BY likely LIMIT", "ORDER BY likely DESC LIMIT"),
    ("sqlite_counting.py", "counter = ? AND expires > ?\"\n        return {row[0]", "counter = ? AND expires > ? - 1000\"\n        return {row[0]"),
    ("contract.py", "return max(at - now, 1)", "return at - now"),
    ("contract.py", "not isinstance(term, Slots) and term.unit != \"requests\"", "not isinstance(term, Slots)"),
    ("contract.py", "if used + term.cost <= term.limit:\n            return max", "if used + term.cost < term.limit:\n            return max"),
    # what a dead process left
    ("apply.lua", "string.sub(id, 1, #owner) == owner then found", "id == owner then found"),
    ("apply.lua", "if #found < limit and string", "if string"),
    ("apply.lua", "if string.sub(holder, 1, #owner) == owner then", "if holder == owner .. '-' then"),
    ("apply.lua", "(look or owner == '') and {} or leases", "(owner == '') and {} or leases"),
    ("sqlite_counting.py", "(\"substr(id, 1, ?) = ?\",", "(\"substr(id, 1, ?) >= ?\","),
    ("sqlite_counting.py", "op.leases if op.owner and not op.look else ()", "op.leases if op.owner else ()"),
    ("sqlite_counting.py", "counter = ? AND substr(holder, 1, ?) = ?", "counter = ? AND substr(holder, 1, ?) < ?"),
]  # fmt: skip


def killed(name: str, old: str, new: str, examples: str) -> bool:
    """Whether the machine fails on a tree with that fault."""
    with tempfile.TemporaryDirectory() as copy:
        for part in ("relayd", "tests"):
            shutil.copytree(ROOT / part, Path(copy) / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        file = Path(copy) / "relayd" / "state" / name
        text = file.read_text()
        assert old in text, f"{name}: {old!r} is gone"
        file.write_text(text.replace(old, new, 1))
        # The copy must win over an editable install of the tree.
        words = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/state/test_machine.py"]
        environment = {**os.environ, "RELAYD_EXAMPLES": examples, "PYTHONPATH": copy}
        done = subprocess.run(words, cwd=copy, env=environment, capture_output=True, timeout=900, check=False)
        assert done.returncode in (0, 1), done.stdout.decode()[-2000:] + done.stderr.decode()[-2000:]
        return done.returncode == 1


def main() -> int:
    examples = sys.argv[1] if len(sys.argv) > 1 else "400"
    alive = 0
    for name, old, new in MUTANTS:
        dead = killed(name, old, new, examples)
        alive += not dead
        print("killed  " if dead else "SURVIVED", f"{name}: {old.strip()[:70]!r} -> {new.strip()[:70]!r}", flush=True)
    print(f"{len(MUTANTS) - alive} of {len(MUTANTS)} killed")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
