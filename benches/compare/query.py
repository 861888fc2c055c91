#!/usr/bin/env python3
"""Times an operator's questions over log directories, open and sealed, beside other programs on the same lines. See README.md."""

import argparse
import collections
import csv
import datetime
import json
import os
import pathlib
import platform
import re
import resource
import shlex
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time

DROP_CACHES = pathlib.Path("/proc/sys/vm/drop_caches")
DUCKDB = "import duckdb, sys; [print(*row, sep='|') for row in duckdb.sql(sys.argv[1]).fetchall()]"
SEALED = ".log.zst"


# ---------------------------------------------------------------------------------- the lines


def segments(service_dir):
    """Text files of a service, oldest first. Where a segment is there open and sealed, the open one is the truth."""
    open_ones = {path.name.removesuffix(".log"): path for path in service_dir.glob("2*.log")}
    sealed = {path.name.removesuffix(SEALED): path for path in service_dir.glob("2*" + SEALED)}
    return [path for _, path in sorted({**sealed, **open_ones}.items())]


def services(logs):
    return sorted(path.name for path in logs.iterdir() if path.is_dir() and not path.name.startswith(".") and segments(path))


def text_of(segment):
    """The lines of a segment in either form."""
    if not segment.name.endswith(SEALED):
        with open(segment, "rb") as file:
            yield from file
        return
    with subprocess.Popen(["zstd", "-dcq", str(segment)], stdout=subprocess.PIPE) as program:
        yield from program.stdout
    if program.returncode:
        raise SystemExit(f"zstd cannot read {segment}")


def lines_of(logs):
    for service in services(logs):
        for segment in segments(logs / service):
            for line in text_of(segment):
                text, level, rest = line[:30].decode(), line[31:36].strip().decode(), line[37:].decode(errors="replace")
                source, _, message = rest.rstrip("\n").partition(" ")
                yield service, ns_of(text[:19], int(text[20:29])), level, source, message


SECONDS = {}


def ns_of(second, part=0):
    """Nanoseconds since 1970 of a second as lines have it."""
    if second not in SECONDS:
        SECONDS.clear()
        SECONDS[second] = int(datetime.datetime.fromisoformat(second + "+00:00").timestamp()) * 10**9
    return SECONDS[second] + part


# ---------------------------------------------------------------------------------- the other stores


def load_sqlite(path, logs, fts):
    database = sqlite3.connect(path)
    database.executescript(
        "pragma journal_mode=off; pragma synchronous=off;"
        "create table logs(service text, time_ns integer, level text, source text, message text);"
    )
    database.executemany("insert into logs values(?,?,?,?,?)", lines_of(logs))
    database.executescript(
        "create index by_service on logs(service, time_ns); create index by_level on logs(level);"
        "create index by_time on logs(time_ns);"
    )
    if fts:
        database.executescript(
            "create virtual table words using fts5(message, content='logs', content_rowid='rowid');"
            "insert into words(words) values('rebuild');"
        )
    database.execute("analyze")
    database.commit()
    database.close()


def load_parquet(path, logs, python):
    with tempfile.NamedTemporaryFile("w", suffix=".csv", newline="", encoding="utf-8") as rows:
        csv.writer(rows).writerows(lines_of(logs))
        rows.flush()
        copy = (
            f"copy (select * from read_csv('{rows.name}', header=false, columns={{'service': 'varchar', 'time_ns': 'bigint',"
            f" 'level': 'varchar', 'source': 'varchar', 'message': 'varchar'}})) to '{path}' (format parquet)"
        )
        subprocess.run([python, "-c", "import duckdb, sys; duckdb.sql(sys.argv[1])", copy], check=True)


# ---------------------------------------------------------------------------------- the questions


def quoted(text):
    return "'" + text.replace("'", "''") + "'"


class Questions:
    """What is asked, as each program takes it. A question is a name, the commands by program, and how to read an answer."""

    def __init__(self, args):
        self.args = args
        self.service = args.service or services(args.logs)[0]
        self.minute = self.minute_of(segments(args.logs / self.service))
        self.all = [
            self.last_lines(),
            self.errors_in_a_minute(),
            self.counts_by_level(),
            self.needle(),
            self.common_in_ten_minutes(),
            self.regex_over_a_service(),
        ]

    @staticmethod
    def minute_of(found):
        """A minute in the middle of a service."""
        lines = list(text_of(found[len(found) // 2]))
        return lines[len(lines) // 2][:16].decode()

    def mill(self, *rest):
        """The same question to the open and to the sealed directory."""
        dirs = {"millpond": self.args.logs}
        if self.args.sealed:
            dirs["millpond, sealed"] = self.args.sealed
        start = [self.args.millpond, "query", "--config", "/dev/null", "--utc"]
        return {name: start + ["--logs", str(path), *rest] for name, path in dirs.items()}

    def text_search(self, pattern, service=None, fixed=False):
        """ripgrep on the text; ripgrep and zstdgrep on the sealed files."""
        how, found = (["-F"] if fixed else []), {}
        path = lambda logs: str(logs / service if service else logs)
        rg = ["rg", "--no-filename", "--no-ignore", *how, "-e", pattern]
        found["rg"] = rg + ["-g", "2*.log", path(self.args.logs)]
        if sealed := self.args.sealed:
            found["rg -z, sealed"] = rg + ["-z", "-g", "2*.log", "-g", "2*" + SEALED, path(sealed)]
            # Its own grep knows neither \S nor \d in the extended syntax that it is given: the patterns here do without.
            names = [str(file) for name in ([service] if service else services(sealed)) for file in segments(sealed / name)]
            found["zstdgrep, sealed"] = ["zstdgrep", "-h", *(how or ["-E"]), "-e", pattern, *names]
        return found

    def sql(self, where, what="message", rest=""):
        found = {}
        select = f"select {what} from logs where {where} {rest}".strip() if where else f"select {what} from logs {rest}"
        found["sqlite3"] = ["sqlite3", str(self.args.sqlite), select] if self.args.sqlite else "no --sqlite"
        if not self.args.parquet:
            found["duckdb"] = "no --parquet"
        elif not self.args.has_duckdb:
            found["duckdb"] = f"{self.args.python} has no duckdb"
        else:
            rows = select.replace("from logs", f"from read_parquet('{self.args.parquet}')")
            rows = re.sub(r"message regexp ('(?:[^']|'')*')", r"regexp_matches(message, \1)", rows)
            found["duckdb"] = [self.args.python, "-c", DUCKDB, rows]
        return found

    def words(self, match, rest=""):
        if not self.args.fts:
            return {"sqlite3 FTS5": "no --fts"}
        select = f"select logs.message from words join logs on logs.rowid = words.rowid where words match {quoted(match)} {rest}"
        return {"sqlite3 FTS5": ["sqlite3", str(self.args.fts), select]}

    def last_lines(self):
        newest = segments(self.args.logs / self.service)[-1]
        programs = self.mill("--service", self.service, "-n", "200")
        if newest.name.endswith(".log"):
            programs["tail"] = ["tail", "-n", "200", str(newest)]
        if self.args.sealed:
            newest = segments(self.args.sealed / self.service)[-1]
            program = "zstdcat" if newest.name.endswith(SEALED) else "cat"
            programs[f"{program} \\| tail, sealed"] = ["sh", "-c", f"{program} {shlex.quote(str(newest))} | tail -n 200"]
        programs |= self.sql(f"service={quoted(self.service)}", rest="order by time_ns desc limit 200")
        return "last 200 lines of a service", programs, count_lines

    def errors_in_a_minute(self):
        since, until = self.minute + ":00Z", self.minute + ":59.999999999Z"
        ns = ns_of(self.minute + ":00")
        programs = self.mill("--service", self.service, "--level", "error", "--since", since, "--until", until)
        programs |= self.text_search(f"^{self.minute}:.{{13}} (ERROR|FATAL)", self.service)
        where = f"service={quoted(self.service)} and time_ns between {ns} and {ns + 60 * 10**9 - 1} and level in ('ERROR','FATAL')"
        return "errors of a service in a minute", programs | self.sql(where), count_lines

    def counts_by_level(self):
        programs = self.mill("--count", "--by", "level")
        return "counts by level over everything", programs | self.sql("", "level, count(*)", "group by level"), counts

    def needle(self):
        needle = self.args.needle
        programs = self.mill("--grep", needle) | self.text_search(needle, fixed=True)
        return "a needle", programs | self.sql(f"message like {quoted(f'%{needle}%')}") | self.words(f'"{needle}"'), count_lines

    def common_in_ten_minutes(self):
        common, ten = self.args.common, self.minute[:15]
        since, until = ten + "0:00Z", ten + "9:59.999999999Z"
        ns = ns_of(ten + "0:00")
        programs = self.mill("--grep", common, "--since", since, "--until", until)
        programs |= self.text_search(f"^{ten}.{{15}} .{{5}} [^ ]+ .*{re.escape(common)}")
        when = f"time_ns between {ns} and {ns + 600 * 10**9 - 1}"
        programs |= self.sql(f"{when} and message like {quoted(f'%{common}%')}")
        programs |= self.words(f'"{common}"', f"and {when}")
        return "a common substring in 10 minutes", programs, count_lines

    def regex_over_a_service(self):
        regex = self.args.regex
        programs = self.mill("--service", self.service, "--regex", regex) | self.text_search(regex, self.service)
        where = f"service={quoted(self.service)} and message regexp {quoted(regex)}"
        return "a regex over a service", programs | self.sql(where), count_lines


def count_lines(output):
    return output.count(b"\n")


def counts(output):
    """Counts in any order and layout, zeros aside: 120+4500."""
    # A count stands by itself: digits in names do not count.
    found = sorted(int(number) for number in re.findall(rb"(?<![\w.])\d+(?![\w.])", output.replace(b",", b"")))
    return "+".join(str(number) for number in found if number)


# ---------------------------------------------------------------------------------- the measurement


def cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(command, read):
    cpu, started = cpu_seconds(), time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    elapsed = time.perf_counter() - started
    # 1 is "nothing matched" with all of these. Of a traceback the last line says what it was.
    last_words = done.stderr.decode(errors="replace").strip().rpartition("\n")[2][:200]
    failure = None if done.returncode in (0, 1) and not done.stderr else f"exit code {done.returncode}: {last_words}"
    return elapsed * 1e3, (cpu_seconds() - cpu) * 1e3, read(done.stdout), failure


class Cold:
    """Takes files out of the page cache."""

    def __init__(self, paths):
        files = [path for path in paths if path]
        self.files = [file for path in files for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
        os.sync()
        try:
            DROP_CACHES.write_text("3")
            self.how = "the kernel's caches dropped before every run"
            self.drops_all = True
        except OSError:
            self.how = "the stores' files taken out of the page cache before every run; programs and directories stay in it"
            self.drops_all = False

    def evict(self):
        if self.drops_all:
            DROP_CACHES.write_text("3")
            return
        for path in self.files:
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def interleaved(programs, read, runs, before=lambda: None):
    """Times, processor times, the last answer and what went wrong, by program."""
    figures = {}
    for _ in range(runs):
        for program, command in programs.items():
            if isinstance(command, list) and shutil.which(command[0]):
                before()
                figures.setdefault(program, []).append(run(command, read))
    return figures


def spread(times):
    return f"{statistics.median(times):.1f} ({min(times):.1f} to {max(times):.1f})"


def version_of(program, command):
    """What the first program of a command says of itself."""
    name = "zstdcat" if "zstdcat" in program else command[0]
    if command[1:3] == ["-c", DUCKDB]:
        asked = [name, "-c", "import duckdb; print('duckdb', duckdb.__version__)"]
    else:
        asked = [name, "--version"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""
    return said.splitlines()[0] if said else ""


class Rows:
    """What was measured, in the form that all comparisons share: `Row` of tools/bench, a line of JSON each."""

    def __init__(self, args, lines):
        self.rows, self.lines = [], lines
        # A question has no publishers: what is promised to them is left at what promises nothing.
        self.guarantees = dict.fromkeys(("bounded", "blocking", "lossy", "crash_safe", "durable"), False)
        paths = {"duckdb": args.parquet, "sqlite3 FTS5": args.fts, "sqlite3": args.sqlite}
        stores = {program: path for program, path in paths.items() if path and path.exists()}
        self.disk_bytes = {program: bytes_of(path) for program, path in stores.items()}
        self.text_bytes = {is_sealed: bytes_of(path) for is_sealed, path in ((False, args.logs), (True, args.sealed)) if path}

    def add(self, question, program, command, state, figures=(), lost=0, skipped=None, failed=None):
        """A question is one event; rounds are the runs of one program."""
        disk_bytes = self.disk_bytes.get(program, self.text_bytes.get("sealed" in program))
        each = {"events": 1, "lost": lost, "disk_bytes": disk_bytes}
        rounds = [each | {"seconds": ms / 1e3, "cpu_seconds": cpu_ms / 1e3} for ms, cpu_ms, _, _ in figures]
        work = f"{question}, {self.lines:,} lines, {state}"
        row = {"part": "query", "work": work, "peer": program.replace("\\|", "into"), "figure": "time", "is_floor": False}
        row |= {"version": version_of(program, command) if rounds else "", "guarantees": self.guarantees, "rounds": rounds}
        why = {"skipped": skipped, "failed": failed}
        self.rows.append(row | {key: text for key, text in why.items() if text})

    def write(self, path):
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in self.rows)


def measure(questions, args, rows):
    """Prints a row for each question and program; returns the programs whose answer is not that of the others."""
    cold = Cold([args.logs, args.sealed, args.sqlite, args.fts, args.parquet]) if args.cold_runs else None
    print(f"Warm: median (least to greatest) of {args.runs} runs, interleaved. Cold: ", end="")
    print(f"of {args.cold_runs} runs, {cold.how}." if cold else "not measured.")
    print("\n| question | program | warm ms | cold ms | CPU ms, warm | answer |\n|---|---|---:|---:|---:|---:|")
    wrong = []
    for name, programs, read in questions.all:
        interleaved(programs, read, 1)
        warm = interleaved(programs, read, args.runs)
        chilled = interleaved(programs, read, args.cold_runs, cold.evict) if cold else {}
        answers = {program: figures[-1][2] for program, figures in warm.items() if not figures[-1][3]}
        usual = collections.Counter(answers.values()).most_common(1)[0][0] if answers else None
        for program, command in programs.items():
            if program not in warm:
                why = command if isinstance(command, str) else f"{command[0]} is not installed"
                print(f"| {name} | {program} | skipped: {why} | | | |")
                rows.add(name, program, command, "warm", skipped=why)
                continue
            times, cpu, _, failures = zip(*warm[program])
            if any(failures):
                why = next(filter(None, failures))
                print(f"| {name} | {program} | failed: {why} | | | |")
                rows.add(name, program, command, "warm", failed=why)
                wrong.append(f"{program} on {name}: failed")
                continue
            answer, lost, differs = str(answers[program]), 0, None
            if answers[program] != usual:
                answer += " **differs**"
                differs = f"answers {answers[program]}, others {usual}"
                # Words are not substrings: FTS5 answers another question, and says so by its count.
                if "FTS5" not in program:
                    wrong.append(f"{program} on {name}: {answers[program]}, others {usual}")
                else:
                    lost, differs = max(0, usual - answers[program]), None
            for state, figures in (("warm", warm), ("cold", chilled)):
                if program in figures:
                    rows.add(name, program, command, state, () if differs else figures[program], lost, failed=differs)
            cold_times = spread([figures[0] for figures in chilled[program]]) if cold else "not measured"
            print(f"| {name} | {program} | {spread(times)} | {cold_times} | {statistics.median(cpu):.1f} | {answer} |")
    return wrong


def bytes_of(path):
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink()) if path.is_dir() else path.stat().st_size


def show_stores(args, taken):
    """Prints what each store takes; how many lines they have."""
    lines = sum(1 for service in services(args.logs) for segment in segments(args.logs / service) for _ in text_of(segment))
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}; {lines:,} lines.\n")
    print("| store | bytes/line | made here, M lines/s |\n|---|---:|---:|")
    stores = {"text and indexes": args.logs, "sealed": args.sealed, "SQLite": args.sqlite, "SQLite FTS5": args.fts, "Parquet": args.parquet}
    for name, path in stores.items():
        if path and path.exists():
            speed = f"{lines / taken[name] / 1e6:.2f}" if name in taken else "-"
            print(f"| {name} | {bytes_of(path) / max(lines, 1):.1f} | {speed} |")
    print()
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("logs", type=pathlib.Path, help="log directory, as text: what tail and ripgrep read")
    parser.add_argument("--sealed", type=pathlib.Path, help="the same lines, sealed")
    parser.add_argument("--millpond", default="target/release/millpond")
    parser.add_argument("--needle", default="needle")
    parser.add_argument("--common", default="timeout", help="the substring that many lines have")
    parser.add_argument("--regex", default="[0-9a-f]+dead", help="in the syntax that all programs share")
    parser.add_argument("--service", help="default: the first one")
    parser.add_argument("--sqlite", type=pathlib.Path, help="made if it is not there; so are the next two")
    parser.add_argument("--fts", type=pathlib.Path, help="SQLite with FTS5")
    parser.add_argument("--parquet", type=pathlib.Path)
    parser.add_argument("--python", default=sys.executable, help="the Python that has duckdb")
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--cold-runs", type=int, default=5, help="0: only warm")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="the rows as lines of JSON, as the other comparisons write them")
    args = parser.parse_args()
    args.has_duckdb = subprocess.run([args.python, "-c", "import duckdb"], capture_output=True, check=False).returncode == 0
    makers = {
        "SQLite": (args.sqlite, lambda: load_sqlite(args.sqlite, args.logs, fts=False)),
        "SQLite FTS5": (args.fts, lambda: load_sqlite(args.fts, args.logs, fts=True)),
        "Parquet": (args.parquet if args.has_duckdb else None, lambda: load_parquet(args.parquet, args.logs, args.python)),
    }
    taken = {}
    for name, (path, make) in makers.items():
        if path and not path.exists():
            started = time.perf_counter()
            make()
            taken[name] = time.perf_counter() - started
    rows = Rows(args, show_stores(args, taken))
    wrong = measure(Questions(args), args, rows)
    if args.json:
        rows.write(args.json)
    for trouble in wrong:
        print(trouble, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
