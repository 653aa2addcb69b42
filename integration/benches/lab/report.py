"""Medians and ratios of the runs, as Markdown; and where they stand in docs/MEASUREMENTS.md.

Each job owns what is between its two markers there; the rest of the file, the method with it, is written by hand and
left alone.
"""
import statistics

from .jobs import FLOOR, GIB, SWARM
from .payload import MIB

# Cores that others may use while a table is made that can be trusted.
QUIET = 0.1


def median(values):
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def per_gib(run):
    return run["cpu"] / run["size"] * GIB if run else None


def rate(run):
    return run["size"] / MIB / run["wall"] if run else None


def show(value, digits=0):
    return "–" if value is None else f"{value:.{digits}f}"


def ratios(results, to):
    """Castanet's CPU to the least of the clients `to`, round by round."""
    rounds = []
    for index, run in enumerate(results.get("castanet", [])):
        others = [per_gib(results[name][index]) for name in to if results[name][index]]
        if run and others:
            rounds.append(per_gib(run) / min(others))
    return median(rounds)


def table(job, results, versions):
    """The Markdown table of a job, and below it the ratios."""
    is_swarm = job.what == SWARM
    unit = "s until all complete" if is_swarm else "MiB/s"
    lines = [f"| program | CPU s/GiB | lowest – highest | {unit} | RSS MiB | private MiB | others, cores | runs |",
             "|---|---|---|---|---|---|---|---|"]
    for name, runs in results.items():
        good = [run for run in runs if run]
        cpu = [per_gib(run) for run in good]
        speed = median([run["wall"] for run in good] if is_swarm else map(rate, good))
        rss, private = (median([run[key] / MIB for run in good if name != FLOOR]) for key in ("rss", "private"))
        lines.append(" | ".join([
            f"| {name} {versions.get(name, '')}".rstrip(), show(median(cpu), 2),
            f"{min(cpu):.2f} – {max(cpu):.2f}" if cpu else "–", show(speed, 1 if is_swarm else 0),
            show(rss), show(private), show(median([run["others"] for run in good]), 2), f"{len(good)}/{len(runs)} |",
        ]))
    peers = [name for name in results if name not in ("castanet", FLOOR)]
    costs = {name: cost for name in peers if (cost := median(map(per_gib, results[name]))) is not None}
    said = []
    if costs and (ratio := ratios(results, peers)) is not None:
        said.append(f"{ratio:.2f} × the best peer ({min(costs, key=costs.get)})")
    if FLOOR in results and (ratio := ratios(results, [FLOOR])) is not None:
        said.append(f"{ratio:.2f} × the floor")
    if said:
        lines += ["", f"Castanet's CPU: **{', '.join(said)}**."]
    disturbed = median(run["others"] for runs in results.values() for run in runs if run)
    if disturbed is not None and disturbed > QUIET:
        lines += ["", f"**The machine was not idle** (others used {disturbed:.2f} cores): measure again."]
    return "\n".join(lines)


def section(job, results, context):
    """What stands between the markers of a job."""
    notes = [f"`integration/benches/compare {context['arguments'](job)}`",
             f"{context['date']}, commit {context['commit']}",
             context["machine"], f"load {context['load']:.2f} before it started"]
    if context["left_out"]:
        notes.append("left out: " + "; ".join(f"{name}: {why}" for name, why in context["left_out"].items()))
    return f"### {job.title(context['quick'])}\n\n{' · '.join(notes)}\n\n{table(job, results, context['versions'])}\n"


def markers(job):
    return f"<!-- compare {job.name}: begin -->", f"<!-- compare {job.name}: end -->"


def put(path, job, text):
    """Replaces what is between the job's markers, or adds it at the end; makes the file if there is none."""
    old = path.read_text() if path.exists() else "# Measurements\n"
    begin, end = markers(job)
    block = f"{begin}\n{text}{end}"
    if begin in old and end in old:
        before, after = old.split(begin, 1)[0], old.split(end, 1)[1]
        new = before + block + after
    else:
        new = f"{old.rstrip()}\n\n{block}\n"
    path.write_text(new)
