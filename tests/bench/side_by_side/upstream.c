/* A Messages API that costs next to nothing: what stands behind every relay of the benchmark. Loopback only.
 *
 *   cc -O2 -o upstream upstream.c && ./upstream PORT
 *
 * One thread, one epoll. A request whose body has "stream": true is answered by events, any other by one JSON answer.
 * How streams flow is set for all requests to come, because relays drop headers that they do not know:
 *
 *   GET /set?events=20&first_us=0&pause_us=0    deltas a stream; time before the head; time between two deltas
 *
 * Each event is a write of its own, as the real API sends them. Times of one kind are all the same, so the connections
 * that wait for one are a queue, and no heap of timers is needed.
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

#define ENOUGH (4 << 20) /* bytes of a request; no benchmark sends more */
#define LENGTH(text) (sizeof(text) - 1)

enum state { READING, BEFORE_HEAD, BETWEEN_DELTAS };

struct peer {
    int fd, left; /* deltas still to send */
    enum state state;
    double due;
    struct peer *next, *previous; /* in the queue of its state */
    char *data;
    size_t used, room;
};

struct queue { struct peer *first, *last; };

static struct queue waiting[3];
static int events = 20;
static double first, pause_;

static const char ANSWER[] =
    "{\"id\":\"msg_01Bench\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"claude-sonnet-5-5\",\"content\":[{\"type\":"
    "\"text\",\"text\":\"Word by word a model answers, and here it always says the same words, a hundred bytes of them.\"}],"
    "\"stop_reason\":\"end_turn\",\"stop_sequence\":null,\"usage\":{\"input_tokens\":25,\"cache_creation_input_tokens\":0,"
    "\"cache_read_input_tokens\":0,\"output_tokens\":21}}";
static const char BEGIN[] =
    "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_01Bench\",\"type\":\"message\",\"role\":"
    "\"assistant\",\"model\":\"claude-sonnet-5-5\",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{"
    "\"input_tokens\":25,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":0,\"output_tokens\":1}}}\n\n";
static const char BLOCK[] =
    "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\","
    "\"text\":\"\"}}\n\n";
static const char DELTA[] =
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\","
    "\"text\":\"some words \"}}\n\n";
static const char BLOCK_END[] =
    "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n";
static const char USAGE[] =
    "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},"
    "\"usage\":{\"output_tokens\":21}}\n\n";
static const char END[] = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
static const char STREAM_HEAD[] =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    "request-id: req_bench\r\ntransfer-encoding: chunked\r\n\r\n";

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

static void enqueue(struct peer *peer, enum state state, double due) {
    struct queue *queue = &waiting[state];
    peer->state = state;
    peer->due = due;
    peer->next = NULL;
    peer->previous = queue->last;
    *(queue->last ? &queue->last->next : &queue->first) = peer;
    queue->last = peer;
}

static void dequeue(struct peer *peer) {
    struct queue *queue = &waiting[peer->state];
    if (peer->state == READING) return;
    *(peer->previous ? &peer->previous->next : &queue->first) = peer->next;
    *(peer->next ? &peer->next->previous : &queue->last) = peer->previous;
    peer->state = READING;
}

/* A peer whose socket is full has lost the race against a relay of this benchmark; its stream is cut, which counts. */
static int say(struct peer *peer, const char *text, size_t size) {
    return send(peer->fd, text, size, MSG_NOSIGNAL) == (ssize_t)size ? 0 : -1;
}

static int say_event(struct peer *peer, const char *text, size_t size, const char *after) {
    char chunk[1024];
    int length = snprintf(chunk, sizeof chunk, "%zx\r\n%s\r\n%s", size, text, after);
    return say(peer, chunk, length);
}

static int end_stream(struct peer *peer) {
    return say_event(peer, BLOCK_END, LENGTH(BLOCK_END), "") || say_event(peer, USAGE, LENGTH(USAGE), "") ||
                   say_event(peer, END, LENGTH(END), "0\r\n\r\n") ? -1 : 0;
}

/* Deltas until one has to wait. */
static int go_on(struct peer *peer, double at) {
    while (peer->left > 0) {
        if (say_event(peer, DELTA, LENGTH(DELTA), "")) return -1;
        peer->left--;
        if (pause_ > 0 && peer->left > 0) {
            enqueue(peer, BETWEEN_DELTAS, at + pause_);
            return 0;
        }
    }
    return end_stream(peer);
}

static int begin_stream(struct peer *peer, double at) {
    peer->left = events;
    if (say(peer, STREAM_HEAD, LENGTH(STREAM_HEAD)) || say_event(peer, BEGIN, LENGTH(BEGIN), "") ||
        say_event(peer, BLOCK, LENGTH(BLOCK), "")) return -1;
    return go_on(peer, at);
}

static int answer(struct peer *peer, const char *text, size_t size) {
    char reply[2048];
    int length = snprintf(reply, sizeof reply, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nrequest-id: req_bench\r\n"
                          "content-length: %zu\r\n\r\n%s", size, text);
    return say(peer, reply, length);
}

static double number(const char *head, const char *name, double otherwise) {
    const char *at = strstr(head, name);
    return at ? atof(at + strlen(name)) : otherwise;
}

static int wants_stream(const char *body, size_t size) {
    static const char name[] = "\"stream\"";
    const char *at = memmem(body, size, name, LENGTH(name)), *end = body + size;
    if (!at) return 0;
    for (at += LENGTH(name); at < end && (*at == ' ' || *at == ':'); at++) {}
    return end - at >= 4 && !memcmp(at, "true", 4);
}

static int serve(struct peer *peer, char *head, const char *body, size_t size) {
    if (!strncmp(head, "GET /set?", 9)) {
        *strchr(head, '\r') = 0;
        events = number(head, "events=", 20);
        first = number(head, "first_us=", 0) / 1e6;
        pause_ = number(head, "pause_us=", 0) / 1e6;
        return answer(peer, "{}", 2);
    }
    if (!strncmp(head, "GET ", 4)) return answer(peer, "{\"data\":[]}", 11);
    if (!wants_stream(body, size)) return answer(peer, ANSWER, LENGTH(ANSWER));
    if (first > 0) {
        enqueue(peer, BEFORE_HEAD, now() + first);
        return 0;
    }
    return begin_stream(peer, now());
}

/* Bytes of a chunked body from `at`, unchunked in place. Returns the end of the request, NULL while it is not whole. */
static char *unchunk(char *at, char *end, size_t *size) {
    char *to = at;
    for (;;) {
        char *line = memmem(at, end - at, "\r\n", 2);
        if (!line) return NULL;
        size_t length = strtoul(at, NULL, 16);
        if ((size_t)(end - line) < length + 4) return NULL;
        if (!length) return line + 4;
        memmove(to, line + 2, length);
        to += length;
        *size += length;
        at = line + 2 + length + 2;
    }
}

/* Whether the chunked body at `at` is whole: `unchunk` must not be begun before. */
static int whole_chunks(const char *at, const char *end) {
    return end - at >= 5 && !memcmp(end - 5, "0\r\n\r\n", 5);
}

/* The next request, if it is whole. Returns 0 to wait for more, -1 to hang up, 1 after one was served. */
static int take_request(struct peer *peer) {
    char *end = peer->data + peer->used, *head_end = memmem(peer->data, peer->used, "\r\n\r\n", 4);
    if (!head_end) return 0;
    char *body = head_end + 4, *rest;
    size_t size = 0;
    head_end[2] = 0;
    const char *length = strcasestr(peer->data, "\ncontent-length:");
    if (strcasestr(peer->data, "\ntransfer-encoding:")) {
        rest = whole_chunks(body, end) ? unchunk(body, end, &size) : NULL;
    } else {
        size = length ? strtoul(length + 16, NULL, 10) : 0;
        rest = (size_t)(end - body) >= size ? body + size : NULL;
    }
    if (!rest) {
        head_end[2] = '\r';
        return 0;
    }
    int failed = serve(peer, peer->data, body, size);
    peer->used = end - rest;
    memmove(peer->data, rest, peer->used);
    return failed ? -1 : 1;
}

static int hear(struct peer *peer) {
    for (;;) {
        if (peer->room - peer->used < 65536) {
            if (peer->room > ENOUGH) return -1;
            peer->room = peer->room * 2 + 131072;
            peer->data = realloc(peer->data, peer->room);
        }
        size_t space = peer->room - peer->used - 1;
        ssize_t got = recv(peer->fd, peer->data + peer->used, space, 0);
        if (got == 0) return -1;
        if (got < 0) break;
        peer->used += got;
        peer->data[peer->used] = 0;
        if ((size_t)got < space) break;
    }
    int taken = 1;
    while (taken > 0 && peer->state == READING && peer->used) taken = take_request(peer);
    return taken < 0 ? -1 : 0;
}

static void drop(struct peer *peer) {
    dequeue(peer);
    close(peer->fd);
    free(peer->data);
    free(peer);
}

static void accept_all(int listener, int poll) {
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        struct peer *peer = calloc(1, sizeof *peer);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = peer};
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        peer->fd = fd;
        epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
    }
}

/* Serve those whose time has come; returns ms until the next one's, -1 for nobody. */
static int keep_time(void) {
    double next = -1;
    for (int state = BEFORE_HEAD; state <= BETWEEN_DELTAS; state++) {
        struct peer *peer;
        while ((peer = waiting[state].first) && peer->due <= now()) {
            double at = peer->due;
            dequeue(peer);
            if (state == BEFORE_HEAD ? begin_stream(peer, at) : go_on(peer, at)) drop(peer);
            else if (peer->state == READING && peer->used && take_request(peer) < 0) drop(peer);
        }
        if (peer && (next < 0 || peer->due < next)) next = peer->due;
    }
    if (next < 0) return -1;
    double left = next - now();
    return left <= 0 ? 0 : (int)(left * 1e3) + 1;
}

int main(int count, char **words) {
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(count > 1 ? atoi(words[1]) : 3902)};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), poll = epoll_create1(0);
    struct epoll_event ready[512], own = {.events = EPOLLIN, .data.ptr = NULL};
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, 8192)) {
        perror("upstream");
        return 1;
    }
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &own);
    puts("ready");
    fflush(stdout);
    for (;;) {
        int found = epoll_wait(poll, ready, 512, keep_time());
        for (int i = 0; i < found; i++) {
            struct peer *peer = ready[i].data.ptr;
            if (!peer) accept_all(listener, poll);
            else if (hear(peer)) drop(peer);
        }
    }
}
