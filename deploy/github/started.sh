#!/bin/bash
# ACTIONS_RUNNER_HOOK_JOB_STARTED: before a job's first step; the job fails where this does.
. "${0%/*}/hook.sh"
hook started
