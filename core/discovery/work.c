#include "core/discovery/discovery_internal.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/base/log.h"

enum { WORK_THREADS = 4 };

struct work {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    /* under lock */
    struct work_job *first, **last; /* waiting */
    struct work_job *finished;
    unsigned threads, idle;
    bool stopping;
    int notify; /* eventfd */
    /* the loop's */
    struct event *readable;
};

static void
jobs_drop(struct work_job *job)
{
    for (struct work_job *next; job != NULL; job = next) {
        next = job->next;
        job->drop(job);
    }
}

static void
work_destroy(struct work *work)
{
    jobs_drop(work->first);
    jobs_drop(work->finished);
    close(work->notify);
    pthread_cond_destroy(&work->wake);
    pthread_mutex_destroy(&work->lock);
    free(work);
}

/* Threads are detached: a resolver may hang for its whole timeout, and control's end does not wait for it.
 * The last one out frees the pool. */
static void *
work_main(void *argument)
{
    struct work *work = argument;
    uint64_t one = 1;
    pthread_mutex_lock(&work->lock);
    while (!work->stopping) {
        struct work_job *job = work->first;
        if (job == NULL) {
            work->idle++;
            pthread_cond_wait(&work->wake, &work->lock);
            work->idle--;
            continue;
        }
        work->first = job->next;
        if (work->first == NULL) work->last = &work->first;
        pthread_mutex_unlock(&work->lock);
        job->run(job);
        pthread_mutex_lock(&work->lock);
        job->next = work->finished;
        work->finished = job;
        ssize_t ignored = write(work->notify, &one, sizeof one); /* fails only where it is readable already */
        (void)ignored;
    }
    bool is_last = --work->threads == 0;
    pthread_mutex_unlock(&work->lock);
    if (is_last) work_destroy(work);
    return NULL;
}

static void
on_finished(evutil_socket_t fd, short what, void *argument)
{
    struct work *work = argument;
    uint64_t count;
    (void)what;
    if (read((int)fd, &count, sizeof count) == -1 && errno != EAGAIN) log_warn("event descriptor failed");
    pthread_mutex_lock(&work->lock);
    struct work_job *job = work->finished;
    work->finished = NULL;
    pthread_mutex_unlock(&work->lock);
    for (struct work_job *next; job != NULL; job = next) {
        next = job->next;
        job->done(job);
    }
}

struct work *
work_new(struct event_base *base)
{
    struct work *work = calloc(1, sizeof *work);
    if (work == NULL) return NULL;
    work->last = &work->first;
    work->notify = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (work->notify == -1) {
        free(work);
        return NULL;
    }
    pthread_mutex_init(&work->lock, NULL);
    pthread_cond_init(&work->wake, NULL);
    work->readable = event_new(base, work->notify, EV_READ | EV_PERSIST, on_finished, work);
    if (work->readable == NULL || event_add(work->readable, NULL) == -1) {
        if (work->readable != NULL) event_free(work->readable);
        work_destroy(work);
        return NULL;
    }
    return work;
}

/* All signals stay with the loop's thread: the CPU-time guard of scripts looks at what that one is doing. */
static bool
thread_start(struct work *work)
{
    sigset_t all, before;
    pthread_t thread;
    pthread_attr_t attributes;
    sigfillset(&all);
    if (pthread_attr_init(&attributes) != 0) return false;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool started = pthread_create(&thread, &attributes, work_main, work) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return started;
}

bool
work_submit(struct work *work, struct work_job *job)
{
    bool ok = true;
    pthread_mutex_lock(&work->lock);
    if (work->idle == 0 && work->threads < WORK_THREADS) {
        work->threads++;
        if (!thread_start(work)) work->threads--;
        ok = work->threads > 0;
    }
    if (ok) {
        job->next = NULL;
        *work->last = job;
        work->last = &job->next;
        pthread_cond_signal(&work->wake);
    }
    pthread_mutex_unlock(&work->lock);
    return ok;
}

void
work_free(struct work *work)
{
    if (work == NULL) return;
    event_free(work->readable);
    pthread_mutex_lock(&work->lock);
    work->stopping = true;
    bool is_last = work->threads == 0;
    pthread_cond_broadcast(&work->wake);
    pthread_mutex_unlock(&work->lock);
    if (is_last) work_destroy(work);
}
