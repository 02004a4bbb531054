/* A backend on libflux: GET / answers with its name and port, GET /health with 200. It registers itself, and
 * leaves the registry before it stops.
 *
 *     cc -o backend backend.c $(pkg-config --cflags --libs flux)
 *     SERVICE_NAME=users PORT=9001 HOSTNAME=127.0.0.1 REGISTRY_URL=http://127.0.0.1:8081 ./backend
 */
#include <flux.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

static const char *service;
static int port;

/* Sends it all; false once the peer is gone. */
static bool
send_all(int fd, const char *bytes, size_t len)
{
    while (len > 0) {
        ssize_t sent = send(fd, bytes, len, MSG_NOSIGNAL);
        if (sent <= 0) return false;
        bytes += sent;
        len -= (size_t)sent;
    }
    return true;
}

static bool
reply(int fd, const char *head)
{
    char body[256], text[512];
    int status = 200, len;
    if (strncmp(head, "GET /health ", 12) == 0)
        snprintf(body, sizeof body, "ok\n");
    else if (strncmp(head, "GET ", 4) == 0)
        snprintf(body, sizeof body, "hello from %.128s on %d\n", service, port);
    else
        status = 405, snprintf(body, sizeof body, "only GET is served here\n");
    len = snprintf(text, sizeof text,
        "HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %zu\r\n%s\r\n%s",
        status, status == 200 ? "OK" : "Method Not Allowed", strlen(body),
        status == 200 ? "" : "Connection: close\r\n", body);
    return send_all(fd, text, (size_t)len) && status == 200;
}

/* One connection: request after request until the peer closes. A head that passes 8 KiB ends it. */
static void *
serve(void *context)
{
    int fd = (int)(intptr_t)context;
    char head[8193];
    size_t len = 0;
    for (;;) {
        char *end;
        ssize_t got = recv(fd, head + len, sizeof head - 1 - len, 0);
        if (got <= 0) break;
        len += (size_t)got;
        head[len] = '\0';
        while ((end = strstr(head, "\r\n\r\n")) != NULL) {
            if (!reply(fd, head)) goto done;
            end += 4;
            len -= (size_t)(end - head);
            memmove(head, end, len + 1);
        }
        if (len == sizeof head - 1) break;
    }
done:
    close(fd);
    return NULL;
}

static int
listen_on(int number)
{
    const int on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)number)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd == -1) return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 128) == 0) return fd;
    close(fd);
    return -1;
}

static void
accept_one(int listener)
{
    pthread_t thread;
    int fd = accept(listener, NULL, NULL);
    if (fd == -1) return;
    if (pthread_create(&thread, NULL, serve, (void *)(intptr_t)fd) == 0)
        pthread_detach(thread);
    else
        close(fd);
}

static void
on_event(void *context, const char *event, const char *detail)
{
    (void)context;
    fprintf(stderr, "flux: %s: %s\n", event, detail);
}

int
main(void)
{
    sigset_t signals;
    struct flux_options options = {.on_event = on_event};
    enum flux_error error;
    struct flux_client *client =
        flux_new(NULL, &options, &error); /* SERVICE_NAME, PORT, HOSTNAME, REGISTRY_URL */
    if (client == NULL) {
        fprintf(stderr, "backend: %s\n", flux_strerror(error));
        return 64;
    }
    service = flux_id(client);
    port = atoi(getenv("PORT")); /* flux_new has checked it */

    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    struct pollfd wait[2] = {{.fd = listen_on(port), .events = POLLIN},
        {.fd = signalfd(-1, &signals, SFD_CLOEXEC), .events = POLLIN}};
    if (wait[0].fd == -1 || wait[1].fd == -1) {
        perror("backend");
        flux_free(client);
        return 71;
    }
    error = flux_start(client, 0); /* once the port accepts, never before */
    while (error == FLUX_OK && wait[1].revents == 0) {
        if (poll(wait, 2, -1) > 0 && wait[0].revents != 0) accept_one(wait[0].fd);
    }
    flux_free(client); /* leaves the registry; what is under way in the threads ends with the process */
    return error == FLUX_OK ? 0 : 71;
}
