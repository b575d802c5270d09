"""Evaluates deploy/htcondor's configuration by HTCondor's own libraries (``htcondor`` of PyPI): its parser of such files and
its ClassAds. Run by .orchestrators/htcondor, with ``CONDOR_CONFIG`` naming the file.

Standard input: ``[[slot, job], …]``, objects of expressions by name, ``job`` null for none; or texts as a Startd Cron job
writes them instead of a slot. Standard output: what each expression came to, and whether the two match.
"""

import json
import sys
from enum import IntEnum
from typing import Any

import classad2
import htcondor2

POLICY = ("START", "PREEMPT", "KILL", "WANT_VACATE", "WANT_SUSPEND", "SUSPEND", "MAXJOBRETIREMENTTIME")


def machine(published: dict[str, str] | str) -> Any:
    ad = classad2.ClassAd()
    for name in POLICY:
        ad[name] = classad2.ExprTree(str(htcondor2.param[name]))
    ad["Requirements"] = classad2.ExprTree("START")
    if isinstance(published, str):
        lines = [line for line in published.splitlines() if not line.startswith("-")]
        published = {name.strip(): value for name, _, value in (line.partition("=") for line in lines)}
    for name, value in published.items():
        ad[name] = classad2.ExprTree(value)
    return ad


def judge(published: dict[str, str] | str, asked: dict[str, str] | None) -> dict[str, Any]:
    slot, job = machine(published), classad2.ClassAd()
    for name, value in {"Requirements": "True", **(asked or {})}.items():
        job[name] = classad2.ExprTree(value)
    found = {name: slot.lookup(name).eval(slot, job) if asked is not None else slot.eval(name) for name in POLICY}
    shown = {name: value.name if isinstance(value, IntEnum) else value for name, value in found.items()}
    told = {name: str(slot.eval(name)) for name in ("ZtrootedReason",) if name in slot}
    return {**shown, **told, "matches": asked is not None and slot.symmetricMatch(job)}


if __name__ == "__main__":
    settings = (
        "USER_JOB_WRAPPER",
        "ENABLE_SSH_TO_JOB",
        "STARTER_DISABLE_USER_SUPPLIED_TRANSFER_PLUGINS",
        "STARTD_CRON_JOBLIST",
    )
    judged = [judge(*one) for one in json.load(sys.stdin)]
    json.dump({"judged": judged, "settings": {name: str(htcondor2.param.get(name)) for name in settings}}, sys.stdout)
