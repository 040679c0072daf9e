// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What busybox lacks to try vsock, for both sides.
//   vsock connect CID PORT     standard input to the peer, then what comes back to standard output
//   vsock listen PORT          one connection: what comes goes back
//   vsock unix-echo PATH       the same at a Unix socket, for each connection
//   vsock unix-connect PATH PORT   connects to the guest by microvm's socket, and tries until somebody listens there
//   vsock tcp-send ADDRESS PORT    as connect, over TCP: busybox's nc makes a system call for each KiB
//   vsock tcp-receive PORT         one connection to standard output

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <linux/vm_sockets.h> // wants sys/socket.h before it
#include <unistd.h>

static void die(const char *what) { perror(what); exit(1); }

static void write_all(int fd, const char *data, ssize_t len)
{
    while (len > 0) {
        ssize_t now = write(fd, data, (size_t)len);
        if (now < 0)
            die("write");
        data += now;
        len -= now;
    }
}

static void echo(int fd)
{
    static char buffer[32768];
    ssize_t len;
    while ((len = read(fd, buffer, sizeof buffer)) > 0)
        write_all(fd, buffer, len);
    close(fd);
}

// Both directions at once: a peer that gives back what it gets must not fill up.
static void relay(int fd)
{
    static char buffer[32768];
    struct pollfd fds[2] = { { 0, POLLIN, 0 }, { fd, POLLIN, 0 } };
    while (fds[1].fd >= 0) {
        if (poll(fds, 2, -1) < 0)
            die("poll");
        if (fds[0].revents) {
            ssize_t len = read(0, buffer, sizeof buffer);
            if (len > 0) {
                write_all(fd, buffer, len);
            } else {
                shutdown(fd, SHUT_WR);
                fds[0].fd = -1;
            }
        }
        if (fds[1].revents) {
            ssize_t len = read(fd, buffer, sizeof buffer);
            if (len > 0)
                write_all(1, buffer, len);
            else
                fds[1].fd = -1;
        }
    }
}

static int unix_socket(const char *path, struct sockaddr_un *address)
{
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    strncpy(address->sun_path, path, sizeof address->sun_path - 1);
    return socket(AF_UNIX, SOCK_STREAM, 0);
}

static void tcp_send(const char *address, const char *port)
{
    struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(port)) };
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (inet_pton(AF_INET, address, &in.sin_addr) != 1 || connect(fd, (struct sockaddr *)&in, sizeof in))
        die("connect");
    relay(fd);
}

static void tcp_receive(const char *port)
{
    static char buffer[32768];
    struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(port)) };
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0), peer;
    ssize_t len;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&in, sizeof in) || listen(fd, 4) || (peer = accept(fd, NULL, NULL)) < 0)
        die("listen");
    while ((len = read(peer, buffer, sizeof buffer)) > 0)
        write_all(1, buffer, len);
}

int main(int argc, char **argv)
{
    struct sockaddr_vm vm = { .svm_family = AF_VSOCK };
    struct sockaddr_un un;
    if (argc == 4 && !strcmp(argv[1], "connect")) {
        int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
        vm.svm_cid = (unsigned)atoi(argv[2]);
        vm.svm_port = (unsigned)atoi(argv[3]);
        if (connect(fd, (struct sockaddr *)&vm, sizeof vm))
            die("connect");
        relay(fd);
    } else if (argc == 3 && !strcmp(argv[1], "listen")) {
        int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
        vm.svm_cid = VMADDR_CID_ANY;
        vm.svm_port = (unsigned)atoi(argv[2]);
        if (bind(fd, (struct sockaddr *)&vm, sizeof vm) || listen(fd, 4))
            die("listen");
        echo(accept(fd, NULL, NULL));
    } else if (argc == 3 && !strcmp(argv[1], "unix-echo")) {
        int fd = unix_socket(argv[2], &un);
        unlink(argv[2]);
        if (bind(fd, (struct sockaddr *)&un, sizeof un) || listen(fd, 4))
            die("listen");
        for (;;)
            echo(accept(fd, NULL, NULL));
    } else if (argc == 4 && !strcmp(argv[1], "tcp-send")) {
        tcp_send(argv[2], argv[3]);
    } else if (argc == 3 && !strcmp(argv[1], "tcp-receive")) {
        tcp_receive(argv[2]);
    } else if (argc == 4 && !strcmp(argv[1], "unix-connect")) {
        for (int tries = 0; tries < 600; tries++) {
            char answer[64], c;
            unsigned len = 0;
            int fd = unix_socket(argv[2], &un);
            if (!connect(fd, (struct sockaddr *)&un, sizeof un)) {
                dprintf(fd, "CONNECT %s\n", argv[3]);
                while (len < sizeof answer - 1 && read(fd, &c, 1) == 1 && c != '\n')
                    answer[len++] = c;
                answer[len] = 0;
                if (!strncmp(answer, "OK ", 3)) {
                    relay(fd);
                    return 0;
                }
            }
            close(fd);
            usleep(200000);
        }
        fprintf(stderr, "nobody listens at port %s of the guest\n", argv[3]);
        return 1;
    } else {
        fprintf(stderr, "usage: vsock connect CID PORT | listen PORT | unix-echo PATH | unix-connect PATH PORT |\n"
                        "       tcp-send ADDRESS PORT | tcp-receive PORT\n");
        return 2;
    }
    return 0;
}
