#!/bin/bash
# ACTIONS_RUNNER_HOOK_JOB_COMPLETED: after a job's last step.
. "${0%/*}/hook.sh"
hook completed
