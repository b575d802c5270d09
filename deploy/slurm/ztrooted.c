/* SPANK plugin: whatever slurmstepd would start for a batch script, it starts ztrooted's task program instead.
 *
 *   gcc -shared -fPIC -O2 -Wall -Wextra -o ztrooted.so ztrooted.c        (libslurm-dev)
 *   plugstack.conf: required /usr/lib/ztrooted/ztrooted.so task=FILE tickets=FOLDER socket=PATH
 *
 * slurmstepd goes on and runs the user's script where a plugin's task_init fails, "required" or not. So this one never
 * returns from it: what is not replaced ends. A step of srun has no ticket, and ends as well.
 *
 * The task program runs as the job's user and is given two descriptors that were opened as root: the ticket, and a
 * connection to the executor's agent. Nothing of the user's environment reaches it. Where a descriptor can't be had it
 * runs all the same, and says why the job does not.
 */
#include <fcntl.h>
#include <signal.h>
#include <slurm/slurm.h>
#include <slurm/spank.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

SPANK_PLUGIN(ztrooted, 1);

#define REFUSED 126
#define MAX_ARGUMENTS 4096

static int ticket = -1;
static int agent = -1;

static const char *option(const char *name, int ac, char **av)
{
    size_t length = strlen(name);
    for (int i = 0; i < ac; i++)
        if (!strncmp(av[i], name, length) && av[i][length] == '=' && av[i][length + 1] == '/')
            return av[i] + length + 1;
    return NULL;
}

static void refuse(const char *why)
{
    slurm_error("ztrooted: %s", why);
    _exit(REFUSED);
}

static int is_batch_script(spank_t sp)
{
    uint32_t step = 0;
    return spank_get_item(sp, S_JOB_STEPID, &step) == ESPANK_SUCCESS && step == SLURM_BATCH_SCRIPT;
}

static int connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int connection = -1;
    if (path == NULL || strlen(path) >= sizeof address.sun_path)
        return -1;
    strcpy(address.sun_path, path);
    connection = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connection >= 0 && connect(connection, (struct sockaddr *)&address, sizeof address) < 0) {
        close(connection);
        connection = -1;
    }
    return connection;
}

/* As root, in the process that becomes the task. */
int slurm_spank_task_init_privileged(spank_t sp, int ac, char **av)
{
    char path[4096];
    const char *folder = option("tickets", ac, av);
    uint32_t job = 0;

    if (is_batch_script(sp) && folder && spank_get_item(sp, S_JOB_ID, &job) == ESPANK_SUCCESS &&
        snprintf(path, sizeof path, "%s/%u.ticket", folder, job) < (int)sizeof path)
        ticket = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    agent = connect_to(option("socket", ac, av));
    return ESPANK_SUCCESS;
}

/* As the user, right before the script would be executed. Does not return. */
int slurm_spank_task_init(spank_t sp, int ac, char **av)
{
    char job_id[32], ticket_fd[32], agent_fd[32], path[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
    char *environment[] = {path, job_id, ticket_fd, agent_fd, NULL};
    char *arguments[MAX_ARGUMENTS + 2], **given = NULL;
    const char *task = option("task", ac, av);
    uint32_t job = 0;
    int count = 0;

    if (!is_batch_script(sp))
        refuse("request.malformed: only batch scripts are governed, this is a step of srun. Run it in the script itself.");
    if (task == NULL)
        refuse("config.missing: plugstack.conf does not say task=FILE, so nothing runs. Add it.");
    if (spank_get_item(sp, S_JOB_ID, &job) != ESPANK_SUCCESS ||
        spank_get_item(sp, S_JOB_ARGV, &count, &given) != ESPANK_SUCCESS || count < 1 || count > MAX_ARGUMENTS)
        refuse("job.malformed: slurmstepd does not say what is to run, or it has too many arguments.");
    snprintf(job_id, sizeof job_id, "SLURM_JOB_ID=%u", job);
    snprintf(ticket_fd, sizeof ticket_fd, "ZTROOTED_TICKET_FD=%d", ticket);
    snprintf(agent_fd, sizeof agent_fd, "ZTROOTED_AGENT_FD=%d", agent);
    /* Slurm queues a batch job again whose slurmstepd is gone: this attempt must be over then. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() == 1)
        refuse("execution.abandoned: slurmstepd has gone.");
    arguments[0] = (char *)task;
    for (int i = 0; i < count; i++)
        arguments[i + 1] = given[i];
    arguments[count + 1] = NULL;
    execve(task, arguments, environment);
    refuse("config.invalid: the program that plugstack.conf names with task= can't be executed, so nothing runs.");
    return ESPANK_ERROR;
}
