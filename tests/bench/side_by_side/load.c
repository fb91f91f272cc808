/* Load for one relay: asks the same thing again and again, and says how long the answers took. Loopback only.
 *
 *   cc -O2 -o load load.c
 *   ./load PORT CONNECTIONS SECONDS RATE DELTAS < REQUEST
 *
 * REQUEST is sent as it is. RATE 0 is a closed loop: each connection asks again as soon as its answer is whole. With a
 * RATE (requests a second) requests begin by the clock whether earlier ones have ended or not, and their times count
 * from when they should have begun, so that a relay which falls behind cannot hide it. DELTAS is how many of them every
 * answer must have (0: a JSON answer). One line of JSON comes out; times are in ms.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define KEPT 256 /* bytes of what is still unread: a line of a head, or of a chunk's size */

enum part { IDLE, STATUS, HEAD, COUNTED, CHUNK_SIZE, CHUNK, CHUNK_END, TRAILER };

struct link {
    int fd, good, closing, deltas, stop, writing;
    enum part part;
    long left; /* bytes of the body, or of a chunk; -1: until the end of the connection */
    double due, first;
    size_t sent, used;
    char line[KEPT];
    char tail[200]; /* the last bytes of the body so far, in which words may be cut */
    size_t tailed;
};

struct times { double *of; size_t count, room; };

static struct link *links, **idle;
static int connections, idle_count, poll_, wanted_deltas;
static char *request;
static size_t request_size;
static struct sockaddr_in there = {.sin_family = AF_INET};
static struct times firsts, totals;
static long failed, deltas, opened;
static char why[512];
static double rate, stop_at, next_due;

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1e3 + at.tv_nsec / 1e6;
}

static void note(struct times *times, double value) {
    if (times->count == times->room) times->of = realloc(times->of, (times->room = times->room * 2 + 4096) * sizeof(double));
    times->of[times->count++] = value;
}

static void watch(struct link *link, int writing) {
    struct epoll_event event = {.events = EPOLLIN | (writing ? EPOLLOUT : 0), .data.ptr = link};
    if (writing != link->writing) epoll_ctl(poll_, EPOLL_CTL_MOD, link->fd, &event);
    link->writing = writing;
}

static void hang_up(struct link *link) {
    if (link->fd >= 0) close(link->fd);
    link->fd = -1;
}

static void ask(struct link *link, double due);

static void end_answer(struct link *link, const char *problem) {
    double at = now();
    if (!problem && !link->good) problem = "a status that is not 200";
    if (!problem && wanted_deltas && (!link->stop || link->deltas != wanted_deltas)) problem = "events are missing";
    if (!problem && !wanted_deltas && !link->stop) problem = "not the answer of the upstream";
    if (problem) {
        failed++;
        if (!*why) snprintf(why, sizeof why, "%s: %.*s", problem, (int)link->tailed, link->tail);
        hang_up(link);
    } else {
        note(&firsts, link->first - link->due);
        note(&totals, at - link->due);
        if (link->closing) hang_up(link);
    }
    link->part = IDLE;
    if (at >= stop_at || rate > 0) idle[idle_count++] = link;
    else ask(link, at);
}

static void push(struct link *link) {
    while (link->sent < request_size) {
        ssize_t gone = send(link->fd, request + link->sent, request_size - link->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (gone < 0) {
            watch(link, 1);
            return;
        }
        link->sent += gone;
    }
    watch(link, 0);
}

static int open_link(struct link *link) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = link};
    link->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(link->fd, (struct sockaddr *)&there, sizeof there)) return -1;
    setsockopt(link->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    link->writing = 0;
    opened++;
    return epoll_ctl(poll_, EPOLL_CTL_ADD, link->fd, &event);
}

static void ask(struct link *link, double due) {
    int fresh = link->fd < 0;
    link->due = due;
    link->part = STATUS;
    link->good = link->closing = link->deltas = link->stop = 0;
    link->sent = link->used = link->tailed = 0;
    link->first = 0;
    link->left = -1;
    if (fresh && open_link(link)) {
        fprintf(stderr, "load: cannot connect\n");
        exit(1);
    }
    push(link);
}

static int count(const char *text, size_t size, const char *word) {
    int found = 0;
    size_t length = strlen(word);
    for (const char *at = text, *end = text + size; (at = memmem(at, end - at, word, length)); at += length) found++;
    return found;
}

/* Look for words in the body, also where one is cut by the end of what has come. */
static void look(struct link *link, const char *text, size_t size) {
    static char joined[sizeof links->tail + (1 << 18)];
    static const char delta[] = "event: content_block_delta\n", message[] = "event: message_stop\n", plain[] = "\"stop_reason\"";
    const char *stop = wanted_deltas ? message : plain;
    memcpy(joined, link->tail, link->tailed);
    memcpy(joined + link->tailed, text, size);
    size_t all = link->tailed + size, keep = all < sizeof link->tail ? all : sizeof link->tail;
    int before = count(joined, link->tailed, delta), found = count(joined, all, delta) - before;
    link->deltas += found;
    deltas += found;
    if (memmem(joined, all, stop, strlen(stop))) link->stop = 1;
    memcpy(link->tail, joined + all - keep, keep);
    link->tailed = keep;
}

static void read_head_line(struct link *link) {
    char *line = link->line;
    if (link->part == STATUS) {
        link->good = !strncmp(line + 8, " 200", 4);
        link->closing = !strncmp(line, "HTTP/1.0", 8);
        link->part = HEAD;
    } else if (!*line) {
        if (link->part == HEAD) link->tailed = 0;
        link->part = link->part == TRAILER ? IDLE : link->left == -2 ? CHUNK_SIZE : COUNTED;
    } else if (link->part == HEAD && !strncasecmp(line, "content-length:", 15)) link->left = atol(line + 15);
    else if (link->part == HEAD && !strncasecmp(line, "transfer-encoding:", 18)) link->left = -2;
    else if (link->part == HEAD && !strncasecmp(line, "connection: close", 17)) link->closing = 1;
}

/* One line of a head, of a chunk's size or of a trailer. Returns what is left to read, NULL when the line goes on. */
static const char *read_line(struct link *link, const char *at, const char *end) {
    const char *stop = memchr(at, '\n', end - at), *to = stop ? stop : end;
    size_t room = KEPT - 1 - link->used, size = to - at;
    memcpy(link->line + link->used, at, size < room ? size : room); /* what is longer needs no reading */
    link->used += size < room ? size : room;
    if (!stop) return NULL;
    if (link->used && link->line[link->used - 1] == '\r') link->used--;
    link->line[link->used] = 0;
    link->used = 0;
    if (link->part == CHUNK_SIZE) {
        link->left = strtol(link->line, NULL, 16);
        link->part = link->left ? CHUNK : TRAILER;
    } else if (link->part == CHUNK_END) link->part = CHUNK_SIZE;
    else read_head_line(link);
    return stop + 1;
}

static void hear(struct link *link) {
    static char data[1 << 18];
    ssize_t got = recv(link->fd, data, sizeof data, MSG_DONTWAIT);
    if (got < 0) return;
    if (got == 0) {
        if (link->part == COUNTED && link->left == -1) {
            link->closing = 1;
            end_answer(link, NULL);
        } else if (link->part == IDLE) hang_up(link);
        else end_answer(link, "the connection was closed before the answer was whole");
        return;
    }
    if (!link->first) link->first = now();
    for (const char *at = data, *end = data + got; at && at < end && link->part != IDLE;) {
        if (link->part != COUNTED && link->part != CHUNK) {
            at = read_line(link, at, end);
            if (at && (link->part == IDLE || (link->part == COUNTED && link->left == 0))) {
                end_answer(link, NULL);
                return;
            }
            continue;
        }
        size_t size = end - at;
        if (link->left >= 0 && size > (size_t)link->left) size = link->left;
        look(link, at, size);
        at += size;
        if (link->left >= 0 && !(link->left -= size)) {
            if (link->part == COUNTED) {
                end_answer(link, NULL);
                return;
            }
            link->part = CHUNK_END;
        }
    }
}

static int by_size(const void *one, const void *other) {
    double a = *(const double *)one, b = *(const double *)other;
    return (a > b) - (a < b);
}

static void print_times(const char *name, struct times *times) {
    qsort(times->of, times->count, sizeof(double), by_size);
    double share[] = {0.5, 0.9, 0.99};
    const char *names[] = {"p50", "p90", "p99"};
    printf("\"%s\": {", name);
    for (int i = 0; i < 3; i++) {
        double value = times->count ? times->of[(size_t)(share[i] * (times->count - 1) + 0.5)] : 0;
        printf("%s\"%s\": %.4f", i ? ", " : "", names[i], value);
    }
    printf("}, ");
}

/* Begin what is due. Returns ms until the next one. */
static int begin_due(double at) {
    while (rate > 0 && at < stop_at && next_due <= at && idle_count) {
        ask(idle[--idle_count], next_due);
        next_due += 1e3 / rate;
    }
    double next = rate > 0 && next_due < stop_at && idle_count ? next_due : stop_at;
    return next - at < 1 ? 0 : next - at > 100 ? 100 : (int)(next - at);
}

static void report(double seconds) {
    struct rusage own;
    getrusage(RUSAGE_SELF, &own);
    for (char *at = why; *at; at++) if (*at == '"' || *at == '\\' || (unsigned char)*at < ' ') *at = ' ';
    printf("{\"answers\": %zu, \"failed\": %ld, \"deltas\": %ld, \"seconds\": %.4f, \"opened\": %ld, \"why\": \"%s\", ",
           totals.count, failed, deltas, seconds, opened, why);
    print_times("first", &firsts);
    print_times("total", &totals);
    printf("\"cpu\": %.3f}\n", own.ru_utime.tv_sec + own.ru_stime.tv_sec + (own.ru_utime.tv_usec + own.ru_stime.tv_usec) / 1e6);
}

int main(int words_count, char **words) {
    if (words_count != 6) {
        fprintf(stderr, "usage: load PORT CONNECTIONS SECONDS RATE DELTAS < REQUEST\n");
        return 2;
    }
    there.sin_port = htons(atoi(words[1]));
    there.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connections = atoi(words[2]);
    double seconds = atof(words[3]);
    rate = atof(words[4]);
    wanted_deltas = atoi(words[5]);
    signal(SIGPIPE, SIG_IGN);
    request = malloc(8 << 20);
    request_size = fread(request, 1, 8 << 20, stdin);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    links = calloc(connections, sizeof *links);
    idle = calloc(connections, sizeof *idle);
    poll_ = epoll_create1(0);
    double began = next_due = now();
    stop_at = began + seconds * 1e3;
    for (int i = 0; i < connections; i++) {
        links[i].fd = -1;
        if (rate > 0) idle[idle_count++] = &links[i];
        else ask(&links[i], now());
    }
    /* The last answers are waited for: a loop that is cut at its end would leave the slowest ones out. */
    struct epoll_event ready[512];
    double give_up = stop_at + 90e3;
    for (double at = began; (at < stop_at || idle_count < connections) && at < give_up; at = now()) {
        int found = epoll_wait(poll_, ready, 512, at < stop_at ? begin_due(at) : 100);
        for (int i = 0; i < found; i++) {
            struct link *link = ready[i].data.ptr;
            if (link->fd >= 0 && (ready[i].events & EPOLLOUT)) push(link);
            if (link->fd >= 0 && (ready[i].events & ~EPOLLOUT)) hear(link);
        }
        if (rate > 0) begin_due(now());
    }
    failed += connections - idle_count;
    if (idle_count < connections && !*why) snprintf(why, sizeof why, "answers that did not come within 90 s");
    report((now() - began) / 1e3);
}
