/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What is known of a dropped packet: the interface that it is at, and what its headers say.
 *
 * Nothing is read through the kernel's own structures: what is freed may be half gone. All is copied,
 * and what cannot be, or does not hold together, is not known.
 */
#ifndef VTAP_DROP_PACKET_H
#define VTAP_DROP_PACKET_H

#include "lib/protocols.h"

#define NOT_SET 0xFFFF /* of mac_header */
#define ARPHRD_ETHER 1 /* include/uapi/linux/if_arp.h */
#define ARPHRD_LOOPBACK 772
#define NETDEV_HASHENTRIES 256 /* include/linux/netdevice.h */
#define MAX_SAME_HASH 8
#define DST_NOREF 1UL /* of _skb_refdst, include/linux/skbuff.h */
#define MAX_IP_HEADERS 3
#define MAX_EXTENSIONS 6

/* The same order as ENCAPSULATIONS in layouts.py */
enum { PLAIN, IP_IN_IP, GRE };

struct ethernet_header {
	u8 dst[6];
	u8 src[6];
	__be16 type;
};

struct scratch {
	struct drop_event event;
	u64 skb[(SKB_SIZE + 7) / 8];
	u64 head, tail, at; /* of the bytes that are in one piece: address, end, and where we are */
	u32 hardware;	    /* type of the interface, NOT_SET: not known */
	__be16 type;	    /* of what is there: an ethertype */
};
#define SKB(s, type, member) (*(type *)((u8 *)(s)->skb + SKB_##member))

/* Whether P can be an address in the kernel; skb->dev is used for other things, too. */
#define is_address(p) ((s64)(p) < 0)

/* The value of TYPE at AT within what is at P, 0 where it cannot be read. */
#define member(type, p, at)                                                                        \
	({                                                                                         \
		type value_ = 0;                                                                   \
		bpf_probe_read_kernel(&value_, sizeof(value_), (void *)((p) + (at)));              \
		value_;                                                                            \
	})

/* Copy from the packet's bytes at AT into the object TO; not 0 where they are not in one piece. */
#define peek(s, at, to)                                                                            \
	((at) + sizeof(to) > (s)->tail ||                                                          \
	 bpf_probe_read_kernel(&(to), sizeof(to), (void *)((s)->head + (at))))

/* Whether there is a network namespace at NET: its loopback interface leads back to it. */
static __always_inline bool is_net(u64 net)
{
	u64 loopback;

	if (!is_address(net))
		return false;
	loopback = member(u64, net, NET_LOOPBACK);
	return is_address(loopback) && member(u64, loopback, DEVICE_NET) == net;
}

/* The namespace of the interface at DEVICE, 0 where there is none: the pointer is another thing. */
static __always_inline u64 net_of_device(u64 device)
{
	u64 net = 0;

	if (is_address(device))
		net = member(u64, device, DEVICE_NET);
	return is_net(net) ? net : 0;
}

/* The interface INDEX of NET, or 0. */
static __always_inline u64 find_device(u64 net, u32 index)
{
	u64 heads = member(u64, net, NET_INDEX_HEADS);
	u64 node = member(u64, heads, (index % NETDEV_HASHENTRIES) * 8);
	int i;

	for (i = 0; i < MAX_SAME_HASH; i++) {
		if (!is_address(node))
			return 0;
		if (member(u32, node - DEVICE_INDEX_NODE, DEVICE_INDEX) == index)
			return node - DEVICE_INDEX_NODE;
		node = member(u64, node, 0);
	}
	return 0;
}

/*
 * Say at which interface the packet is: DEVICE, or where that is not known any more (a socket has
 * taken the packet) the one that it came in by, in the namespace of the route or of SOCKET.
 */
static __always_inline void find_interface(struct scratch *s, u64 device, u64 socket)
{
	u64 net = net_of_device(device);
	u32 index;

	s->hardware = NOT_SET;
	if (!net) {
		index = SKB(s, u32, IIF);
		device = 0;
		if (is_address(socket))
			net = member(u64, socket, SOCK_NET);
		if (!is_net(net)) {
			u64 route = SKB(s, u64, DST) & ~DST_NOREF;

			net = is_address(route) ? net_of_device(member(u64, route, DST_DEVICE)) : 0;
		}
		if (net && index)
			device = find_device(net, index);
		s->event.interface = index;
	}
	if (net)
		s->event.netns = member(u32, net, NET_INODE);
	if (!device)
		return;
	s->event.interface = member(u32, device, DEVICE_INDEX);
	s->hardware = member(u16, device, DEVICE_TYPE);
	bpf_probe_read_kernel(s->event.name, sizeof(s->event.name), (void *)(device + DEVICE_NAME));
}

/* A tag, the outermost first; those behind the second are not kept. */
static __always_inline void add_tag(struct drop_event *e, u16 tci)
{
	if (e->vlan_tags == 0)
		e->vlan_outer = tci;
	else
		e->vlan_inner = tci;
	e->vlan_tags++;
}

/* Past the Ethernet header and the tags behind it; they are kept where NOTE says so. */
static __always_inline bool ethernet(struct scratch *s, const bool note)
{
	struct ethernet_header header;
	struct snap_header snap;
	struct vlan_header tag;
	int i;

	if (peek(s, s->at, header))
		return false;
	s->at += sizeof(header);
	s->type = header.type;
	if (note) {
		__builtin_memcpy(s->event.dst_mac, header.dst, sizeof(header.dst));
		__builtin_memcpy(s->event.src_mac, header.src, sizeof(header.src));
		s->event.ethernet = 1;
	}
#pragma unroll
	for (i = 0; i < MAX_VLAN_TAGS; i++) {
		if (!is_vlan(s->type) || peek(s, s->at, tag))
			break;
		if (note && s->event.vlan_tags < MAX_VLAN_TAGS)
			add_tag(&s->event, ntohs(tag.tci));
		s->at += sizeof(tag);
		s->type = tag.next;
	}
	if (ntohs(s->type) < ETHERTYPE_LEAST && !peek(s, s->at, snap) && snap.dsap == 0xAA &&
	    snap.ssap == 0xAA && snap.control == 3 && !snap.oui[0] && !snap.oui[1] && !snap.oui[2]) {
		s->at += sizeof(snap);
		s->type = snap.type;
	}
	return true;
}

/* The header of an IP packet further in is found: what is known is that of the outermost one. */
static __always_inline void go_in(struct drop_event *e, u8 encapsulation)
{
	if (!encapsulation)
		return;
	if (!e->outer_family) {
		__builtin_memcpy(e->outer_src_ip, e->src_ip, sizeof(e->src_ip));
		__builtin_memcpy(e->outer_dst_ip, e->dst_ip, sizeof(e->dst_ip));
		e->outer_family = e->family;
	}
	e->encapsulation = encapsulation;
	__builtin_memset(e->src_ip, 0, sizeof(e->src_ip));
	__builtin_memset(e->dst_ip, 0, sizeof(e->dst_ip));
}

/* Past an IPv4 header; whether what is behind it begins with a header of its own. */
static __always_inline bool ipv4(struct scratch *s, u8 encapsulation)
{
	struct drop_event *e = &s->event;
	struct extension_header x;
	struct ipv4_header ip;
	u32 length;

	if (peek(s, s->at, ip))
		return false;
	length = (ip.version_ihl & 0xF) * 4;
	if (ip.version_ihl >> 4 != 4 || length < sizeof(ip))
		return false;
	go_in(e, encapsulation);
	*(u32 *)e->src_ip = ip.src;
	*(u32 *)e->dst_ip = ip.dst;
	e->family = 4;
	e->tos = ip.tos;
	e->ttl = ip.ttl;
	e->ip_length = ntohs(ip.total_length);
	e->protocol = ip.protocol;
	s->at += length;
	if (ip.fragment & htons(0x1FFF)) /* a later fragment */
		return false;
	if (e->protocol == PROTOCOL_AH) { /* RFC 4302 section 2: looked through as in IPv6 */
		if (peek(s, s->at, x))
			return false;
		s->at += (x.length + 2) * 4;
		e->protocol = x.next;
	}
	return true;
}

/* Likewise past an IPv6 header and its extensions. */
static __always_inline bool ipv6(struct scratch *s, u8 encapsulation)
{
	struct drop_event *e = &s->event;
	struct extension_header x;
	struct ipv6_header ip;
	u8 last = 0;
	u32 length;
	int i;

	if (peek(s, s->at, ip) || ip.version_class >> 4 != 6)
		return false;
	go_in(e, encapsulation);
	__builtin_memcpy(e->src_ip, ip.src, sizeof(ip.src));
	__builtin_memcpy(e->dst_ip, ip.dst, sizeof(ip.dst));
	e->family = 6;
	e->tos = ip.version_class << 4 | ip.class_label[0] >> 4;
	e->ttl = ip.hop_limit;
	e->ip_length = sizeof(ip) + ntohs(ip.payload_length);
	e->protocol = ip.next;
	s->at += sizeof(ip);
	for (i = 0; i < MAX_EXTENSIONS; i++) {
		if (!is_extension(e->protocol))
			goto out;
		if (peek(s, s->at, x))
			return false;
		length = extension_length(e->protocol, x.length);
		s->at += length;
		if (e->protocol == IPV6_FRAGMENT && x.fragment & htons(0xFFF8)) {
			e->protocol = x.next;
			return false;
		}
		last = e->protocol;
		e->protocol = x.next;
	}
	return false;
out: /* a header of mobility, HIP or shim6 behind which nothing follows is the packet's protocol */
	if (e->protocol == IPV6_NONE && may_be_last(last))
		e->protocol = last;
	return true;
}

/* Past a GRE header (RFC 2784, RFC 2890), to a packet of the type s->type; whether there is one. */
static __always_inline bool gre(struct scratch *s)
{
	__be16 header[2];

	if (peek(s, s->at, header) || header[0] & htons(GRE_VERSION | GRE_RESERVED))
		return false;
	s->at += sizeof(header);
	s->at += header[0] & htons(GRE_CHECKSUM) ? 4 : 0;
	s->at += header[0] & htons(GRE_KEY) ? 4 : 0;
	s->at += header[0] & htons(GRE_SEQUENCE) ? 4 : 0;
	s->type = header[1];
	return s->type != htons(ETHERTYPE_BRIDGED) || ethernet(s, false);
}

static __always_inline void transport(struct scratch *s)
{
	struct drop_event *e = &s->event;
	__be16 ports[2];
	u8 icmp[2];

	switch (e->protocol) {
	case PROTOCOL_ICMP:
	case PROTOCOL_ICMPV6:
		if (peek(s, s->at, icmp))
			return;
		e->icmp = 1;
		e->icmp_type = icmp[0];
		e->icmp_code = icmp[1];
		return;
	case PROTOCOL_TCP:
	case PROTOCOL_UDP:
	case PROTOCOL_UDPLITE:
	case PROTOCOL_SCTP:
		if (peek(s, s->at, ports))
			return;
		e->ports = 1;
		e->src_port = ntohs(ports[0]);
		e->dst_port = ntohs(ports[1]);
		if (e->protocol == PROTOCOL_TCP)
			(void)peek(s, s->at + 13, e->tcp_flags);
	}
}

/* The IP headers one in the other, and what is in the innermost. */
static __always_inline void network(struct scratch *s)
{
	struct drop_event *e = &s->event;
	u8 encapsulation = PLAIN;
	int i;

	for (i = 0; i < MAX_IP_HEADERS; i++) {
		if (s->type == htons(ETHERTYPE_IPV4)) {
			if (!ipv4(s, encapsulation))
				return;
		} else if (s->type == htons(ETHERTYPE_IPV6)) {
			if (!ipv6(s, encapsulation))
				return;
		} else {
			return;
		}
		encapsulation = IP_IN_IP;
		if (e->protocol == PROTOCOL_IPV4) {
			s->type = htons(ETHERTYPE_IPV4);
		} else if (e->protocol == PROTOCOL_IPV6) {
			s->type = htons(ETHERTYPE_IPV6);
		} else if (e->protocol == PROTOCOL_GRE) {
			encapsulation = GRE;
			if (!gre(s))
				return;
		} else {
			transport(s);
			return;
		}
	}
}

/*
 * Where the packet begins as far as it is known, and what is in it.
 *
 * mac_header stays where it was when a packet goes on its way: it is right as long as it is ahead of
 * network_header. network_header, in turn, is not set in a packet that no protocol has seen yet.
 */
static __always_inline void dissect(struct scratch *s)
{
	struct drop_event *e = &s->event;
	u64 mac = SKB(s, u16, MAC_HEADER), network_at = SKB(s, u16, NETWORK_HEADER);
	u64 data, start;
	bool framed = mac != NOT_SET && (!network_at || mac + ETH_HEADER <= network_at);

	s->head = SKB(s, u64, HEAD);
	s->tail = SKB(s, u32, TAIL);
	data = SKB(s, u64, DATA) - s->head;
	s->type = SKB(s, __be16, PROTOCOL);
	s->at = network_at ? network_at : data;
	if (s->hardware == NOT_SET) /* as long as an Ethernet header with up to two tags */
		framed = framed && network_at && network_at - mac <= ETH_HEADER + 8;
	else if (s->hardware != ARPHRD_ETHER && s->hardware != ARPHRD_LOOPBACK)
		framed = false;
	start = framed ? mac : s->at;
	e->length = SKB(s, u32, LEN) + (u32)(data - start);
	if (SKB_TAG_TAKEN_OFF(s)) {
		add_tag(e, SKB(s, u16, VLAN_TCI));
		e->length += sizeof(struct vlan_header);
	}
	if (framed) {
		__be16 protocol = s->type;

		s->at = mac;
		if (!ethernet(s, true)) {
			s->at = start;
		} else if (s->type != htons(ETHERTYPE_IPV4) && s->type != htons(ETHERTYPE_IPV6) &&
			   s->type != htons(ETHERTYPE_ARP) && network_at >= s->at) {
			s->at = network_at; /* PPPoE, MPLS: the kernel knows what is behind */
			s->type = protocol;
		}
	}
	e->ethertype = ntohs(s->type);
	e->bytes = e->length;
	network(s);
}

#endif
