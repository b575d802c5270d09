/* USER_JOB_WRAPPER: whatever condor_starter would start for a job, it starts ztrooted's task program instead.
 *
 *   gcc -static -O2 -Wall -Wextra -o htcondor-job ztrooted.c             (-DTASK='"/path"' for another task program)
 *
 * It is executed as the job's user, in the environment that the user wrote. A script, or a program that is linked
 * dynamically, would run that user's code (LD_PRELOAD, BASH_ENV, PYTHONPATH) before it could ask or refuse. So this is one
 * static program that decides nothing: the environment goes to the task as bytes in a file, and the task has a clean one.
 *
 * HTCondor runs a job again whose starter is gone, so the attempt ends with its starter. Where the task can't be executed
 * that is said by the file that HTCondor looks for (_CONDOR_WRAPPER_ERROR_FILE): the job has not run.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#ifndef TASK
#define TASK "/etc/ztrooted/htcondor/task"
#endif
#define REFUSED 126

extern char **environ;

static void say(int where, const char *why)
{
    if (dprintf(where, "ztrooted: %s\n", why) < 0)
        _exit(REFUSED);
}

static void refuse(const char *why)
{
    const char *path = getenv("_CONDOR_WRAPPER_ERROR_FILE");
    int told = path ? open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600) : -1;
    if (told >= 0)
        say(told, why);
    say(2, why);
    _exit(REFUSED);
}

/* All of it, or not. */
static int put(int where, const char *data, size_t left)
{
    while (left > 0) {
        ssize_t done = write(where, data, left);
        if (done <= 0)
            return 0;
        data += done;
        left -= (size_t)done;
    }
    return 1;
}

int main(int argc, char **argv)
{
    char number[48], path[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
    char *clean[] = {path, number, NULL};
    int kept = -1;

    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() == 1)
        refuse("execution.abandoned: condor_starter has gone.");
    if (argc < 2)
        refuse("job.malformed: condor_starter does not say what is to run.");
    if (close_range(3, ~0U, 0) < 0 || (kept = memfd_create("environment", 0)) < 0)
        refuse("config.invalid: the job's environment can't be kept. See the machine's memory.");
    for (char **one = environ; *one; one++)
        if (!put(kept, *one, strlen(*one) + 1))
            refuse("config.invalid: the job's environment can't be kept. See the machine's memory.");
    snprintf(number, sizeof number, "ZTROOTED_ENVIRONMENT_FD=%d", kept);
    argv[0] = (char *)TASK;
    execve(TASK, argv, clean);
    refuse("config.invalid: the task program " TASK " can't be executed, so nothing runs. Install it.");
    return REFUSED;
}
