#!/usr/bin/env python3
"""Times queries over a log directory, beside other programs on the same files. See README.md."""

import argparse
import csv
import datetime
import os
import pathlib
import random
import resource
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time


def lines_of(logs):
    for log in sorted(logs.glob("*/2*.log")):
        service = log.parent.name
        with open(log, encoding="utf-8", errors="replace") as file:
            for line in file:
                text, level, rest = line[:30], line[31:36].strip(), line[37:]
                source, _, message = rest.rstrip("\n").partition(" ")
                seconds = datetime.datetime.fromisoformat(text[:19] + "+00:00").timestamp()
                yield service, int(seconds) * 10**9 + int(text[20:29]), level, source, message


def load_sqlite(path, logs):
    database = sqlite3.connect(path)
    database.executescript(
        "pragma journal_mode=off; pragma synchronous=off;"
        "create table logs(service text, time_ns integer, level text, source text, message text);"
    )
    database.executemany("insert into logs values(?,?,?,?,?)", lines_of(logs))
    database.executescript(
        "create index by_service on logs(service, time_ns); create index by_level on logs(level); analyze;"
    )
    database.commit()
    database.close()


DUCKDB = "import duckdb, sys; [print(*row, sep='|') for row in duckdb.sql(sys.argv[1]).fetchall()]"


def load_parquet(path, logs, python):
    with tempfile.NamedTemporaryFile("w", suffix=".csv", newline="", encoding="utf-8") as rows:
        csv.writer(rows).writerows(lines_of(logs))
        rows.flush()
        copy = (
            f"copy (select * from read_csv('{rows.name}', header=false, columns={{'service': 'varchar', 'time_ns': 'bigint',"
            f" 'level': 'varchar', 'source': 'varchar', 'message': 'varchar'}})) to '{path}' (format parquet)"
        )
        subprocess.run([python, "-c", "import duckdb, sys; duckdb.sql(sys.argv[1])", copy], check=True)


def generate(logs, line_count):
    """Writes plain segments of the line format, 8 services, 5 lines with a needle: for trying this script."""
    dice, levels = random.Random(1), ["INFO "] * 90 + ["WARN "] * 6 + ["ERROR"] * 4
    start = int(datetime.datetime(2026, 11, 21, 1, tzinfo=datetime.timezone.utc).timestamp())
    each = line_count // 8
    for index in range(8):
        directory = logs / f"service-{index}"
        directory.mkdir(parents=True)
        with open(directory / "20261121T010000.000000000Z.log", "w", encoding="utf-8") as file:
            for line in range(each):
                seconds, part = divmod(line * 600 * 10**9 // each, 10**9)
                stamp = datetime.datetime.fromtimestamp(start + seconds, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
                needle = " needle" if index < 5 and line == each // 3 else ""
                file.write(f"{stamp}.{part:09}Z {dice.choice(levels)} log request {dice.getrandbits(48):x} done{needle}\n")


def cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(command):
    cpu, started = cpu_seconds(), time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    elapsed = time.perf_counter() - started
    return elapsed * 1e3, (cpu_seconds() - cpu) * 1e3, done.stdout.count(b"\n"), done.returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("logs", type=pathlib.Path)
    parser.add_argument("--generate", type=int, metavar="LINES", help="first fill LOGS, which must be new, with such lines")
    parser.add_argument("--millpond", default="target/release/millpond")
    parser.add_argument("--needle", default="needle")
    parser.add_argument("--service", help="default: the first one")
    parser.add_argument("--sqlite", type=pathlib.Path)
    parser.add_argument("--parquet", type=pathlib.Path)
    parser.add_argument("--python", default=sys.executable, help="the Python that has duckdb")
    parser.add_argument("--runs", type=int, default=11)
    args = parser.parse_args()
    if args.generate:
        generate(args.logs, args.generate)
    service = args.service or sorted(path.name for path in args.logs.iterdir() if path.is_dir() and not path.name.startswith("."))[0]
    segments = sorted(str(path) for path in (args.logs / service).glob("2*.log"))
    with open(segments[0], "rb") as file:
        file.seek(os.path.getsize(segments[0]) // 2)
        file.readline()
        minute = file.read(16).decode()
    since, until = minute + ":00Z", minute + ":59.999999999Z"
    ns = int(datetime.datetime.fromisoformat(minute + ":00+00:00").timestamp()) * 10**9
    mill = [args.millpond, "query", "--logs", str(args.logs), "--config", "/dev/null", "--utc"]
    work = {
        "last 200 lines of a service": {
            "millpond": mill + ["--service", service, "-n", "200"],
            "tail": ["tail", "-n", "200", segments[-1]],
            "sql": f"select message from logs where service='{service}' order by time_ns desc limit 200",
        },
        "counts by level": {
            "millpond": mill + ["--count", "--by", "level"],
            "sql": "select level, count(*) from logs group by level",
        },
        "errors of a service in a minute": {
            "millpond": mill + ["--service", service, "--level", "error", "--since", since, "--until", until],
            "sql": f"select message from logs where service='{service}' and time_ns between {ns} and {ns + 60 * 10**9} and level in ('ERROR','FATAL')",
        },
        "a needle": {
            "millpond": mill + ["--grep", args.needle],
            "rg": ["rg", "--no-filename", "-F", args.needle, "-g", "2*.log", str(args.logs)],
        },
    }
    if args.sqlite and not args.sqlite.exists():
        load_sqlite(args.sqlite, args.logs)
    duckdb = subprocess.run([args.python, "-c", "import duckdb"], capture_output=True, check=False).returncode == 0
    if args.parquet and duckdb and not args.parquet.exists():
        load_parquet(args.parquet, args.logs, args.python)
    for programs in work.values():
        if sql := programs.pop("sql", None):
            programs["sqlite3"] = ["sqlite3", str(args.sqlite), sql] if args.sqlite else "no --sqlite"
            rows = sql.replace("from logs", f"from '{args.parquet}'")
            programs["duckdb"] = [args.python, "-c", DUCKDB, rows] if args.parquet and duckdb else "no --parquet, or not installed"
    print("| query | program | median ms | least | greatest | CPU ms | lines |\n|---|---|---:|---:|---:|---:|---:|")
    for name, programs in work.items():
        figures = {}
        for _ in range(args.runs):
            for program, command in programs.items():
                if isinstance(command, list) and shutil.which(command[0]):
                    figures.setdefault(program, []).append(run(command))
        for program, command in programs.items():
            if program not in figures:
                why = command if isinstance(command, str) else "not installed"
                print(f"| {name} | {program} | skipped: {why} | | | | |")
                continue
            times, cpu, lines, codes = zip(*figures[program])
            if any(codes):
                print(f"| {name} | {program} | failed: exit code {max(codes, key=abs)} | | | | {lines[-1]} |")
                continue
            row = f"{statistics.median(times):.1f} | {min(times):.1f} | {max(times):.1f} | {statistics.median(cpu):.1f}"
            print(f"| {name} | {program} | {row} | {lines[-1]} |")


if __name__ == "__main__":
    main()
