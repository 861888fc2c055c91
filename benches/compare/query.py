#!/usr/bin/env python3
"""Times queries over a log directory, beside other programs on the same files. See README.md."""

import argparse
import datetime
import os
import pathlib
import shutil
import sqlite3
import statistics
import subprocess
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


def run(command):
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    return (time.perf_counter() - started) * 1e3, done.stdout.count(b"\n"), done.returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("logs", type=pathlib.Path)
    parser.add_argument("--millpond", default="target/release/millpond")
    parser.add_argument("--needle", default="needle")
    parser.add_argument("--service", help="default: the first one")
    parser.add_argument("--sqlite", type=pathlib.Path)
    parser.add_argument("--runs", type=int, default=11)
    args = parser.parse_args()
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
            "sqlite3": f"select message from logs where service='{service}' order by time_ns desc limit 200",
        },
        "counts by level": {
            "millpond": mill + ["--count", "--by", "level"],
            "sqlite3": "select level, count(*) from logs group by level",
        },
        "errors of a service in a minute": {
            "millpond": mill + ["--service", service, "--level", "error", "--since", since, "--until", until],
            "sqlite3": f"select message from logs where service='{service}' and time_ns between {ns} and {ns + 60 * 10**9} and level in ('ERROR','FATAL')",
        },
        "a needle": {
            "millpond": mill + ["--grep", args.needle],
            "rg": ["rg", "--no-filename", "-F", args.needle, "-g", "2*.log", str(args.logs)],
        },
    }
    if args.sqlite and not args.sqlite.exists():
        load_sqlite(args.sqlite, args.logs)
    print(f"| query | program | median ms | least | greatest | lines |\n|---|---|---:|---:|---:|---:|")
    for name, programs in work.items():
        figures = {}
        for _ in range(args.runs):
            for program, command in programs.items():
                if program == "sqlite3":
                    if not args.sqlite:
                        continue
                    command = ["sqlite3", str(args.sqlite), command]
                if shutil.which(command[0]):
                    figures.setdefault(program, []).append(run(command))
        for program in programs:
            if program not in figures:
                print(f"| {name} | {program} | skipped: not installed or not asked for | | | |")
                continue
            times = [figure[0] for figure in figures[program]]
            row = f"{statistics.median(times):.1f} | {min(times):.1f} | {max(times):.1f}"
            print(f"| {name} | {program} | {row} | {figures[program][-1][1]} |")


if __name__ == "__main__":
    main()
