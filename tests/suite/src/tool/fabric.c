/* Sends 1 MiB from memory that was never touched, and reads some of it itself: server | client. */
#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define BYTES (1 << 20)

static void must(int status, const char *what)
{
	if (status >= 0)
		return;
	printf("%s: %s\n", what, fi_strerror(-status));
	exit(1);
}

static void wait_for(struct fid_cq *cq)
{
	struct fi_cq_entry entry;
	int got;
	while ((got = fi_cq_read(cq, &entry, 1)) == -FI_EAGAIN)
		;
	if (got == -FI_EAVAIL) {
		struct fi_cq_err_entry error = { 0 };
		fi_cq_readerr(cq, &error, 0);
		printf("completion: %s\n", fi_strerror(error.err));
		exit(1);
	}
	must(got, "fi_cq_read");
}

int main(int argc, char **argv)
{
	int server = argc > 1 && !strcmp(argv[1], "server");
	struct fi_info *hints = fi_allocinfo(), *info;
	struct fid_fabric *fabric;
	struct fid_domain *domain;
	struct fid_av *av;
	struct fid_cq *cq;
	struct fid_ep *ep;
	fi_addr_t peer = FI_ADDR_UNSPEC;

	alarm(40);
	setbuf(stdout, NULL);
	hints->caps = FI_MSG;
	hints->ep_attr->type = FI_EP_RDM;
	hints->fabric_attr->prov_name = strdup("verbs;ofi_rxm");
	hints->domain_attr->mr_mode = 0;
	hints->domain_attr->threading = FI_THREAD_SAFE;
	must(fi_getinfo(FI_VERSION(1, 18), "10.9.0.1", "5555", server ? FI_SOURCE : 0, hints, &info), "fi_getinfo");
	must(fi_fabric(info->fabric_attr, &fabric, NULL), "fi_fabric");
	must(fi_domain(fabric, info, &domain, NULL), "fi_domain");
	struct fi_av_attr av_attr = { .type = FI_AV_UNSPEC };
	must(fi_av_open(domain, &av_attr, &av, NULL), "fi_av_open");
	struct fi_cq_attr cq_attr = { .format = FI_CQ_FORMAT_CONTEXT };
	must(fi_cq_open(domain, &cq_attr, &cq, NULL), "fi_cq_open");
	must(fi_endpoint(domain, info, &ep, NULL), "fi_endpoint");
	must(fi_ep_bind(ep, &av->fid, 0), "fi_ep_bind");
	must(fi_ep_bind(ep, &cq->fid, FI_SEND | FI_RECV), "fi_ep_bind");
	must(fi_enable(ep), "fi_enable");
	char *memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (server) {
		memset(memory, 1, BYTES);
		must(fi_recv(ep, memory, BYTES, NULL, FI_ADDR_UNSPEC, NULL), "fi_recv");
		printf("listening\n");
		wait_for(cq);
		for (int i = 0; i < BYTES; i++)
			if (memory[i]) {
				printf("byte %d is wrong\n", i);
				return 1;
			}
		printf("server: every byte right\n");
		return 0;
	}
	must(fi_av_insert(av, info->dest_addr, 1, &peer, 0, NULL) - 1, "fi_av_insert");
	int status;
	while ((status = fi_send(ep, memory, BYTES, NULL, peer, NULL)) == -FI_EAGAIN)
		fi_cq_read(cq, NULL, 0);
	must(status, "fi_send");
	wait_for(cq);
	printf("client: sent\n");
	for (int i = 0; i < BYTES; i += 4096)
		if (memory[i])
			return 1;
	memset(memory, 7, BYTES);
	printf("client: read and wrote its own memory\n");
	return 0;
}
