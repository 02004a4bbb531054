#include "flux/internal.h"

#include <signal.h>

int
thread_start(pthread_t *thread, void *(*run)(void *), void *context)
{
    sigset_t all, before;
    int error;
    sigfillset(&all);
    error = pthread_sigmask(SIG_SETMASK, &all, &before);
    if (error != 0) return error;
    error = pthread_create(thread, NULL, run, context);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}
