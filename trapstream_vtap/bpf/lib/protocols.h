/* SPDX-License-Identifier: GPL-2.0-only */
/* Numbers and headers of the protocols, as they are on the wire. */
#ifndef VTAP_PROTOCOLS_H
#define VTAP_PROTOCOLS_H

#define ETH_HEADER 14
#define ETHERTYPE_IPV4 0x0800 /* IEEE 802 numbers, as the rest */
#define ETHERTYPE_ARP 0x0806
#define ETHERTYPE_BRIDGED 0x6558 /* an Ethernet frame inside */
#define ETHERTYPE_IPV6 0x86DD
#define ETHERTYPE_8021Q 0x8100
#define ETHERTYPE_8021AD 0x88A8
#define ETHERTYPE_QINQ 0x9100 /* before 802.1ad, still in use */
#define ETHERTYPE_LEAST 0x0600	/* what is smaller is a length (IEEE 802.3 section 3.2.6) */
#define ETHERTYPE_VN_TAG 0x8926	/* IEEE 802.1BR, its forerunner */
#define ETHERTYPE_I_TAG 0x88E7	/* IEEE 802.1Q section 9.7 (802.1ah) */
#define ETHERTYPE_MPLS 0x8847	/* RFC 5332 */
#define ETHERTYPE_MPLS_UPSTREAM 0x8848
#define ETHERTYPE_PPPOE 0x8864 /* RFC 2516 */

#define VN_TAG 6  /* bytes with the ethertype behind it */
#define I_TAG 18  /* likewise: a service id, and the addresses of the frame inside */
#define MPLS_BOTTOM 0x100 /* RFC 3032 section 2.1 */
#define MAX_MPLS_LABELS 4
#define PPP_IPV4 0x0021 /* RFC 1332, RFC 5072 */
#define PPP_IPV6 0x0057

#define PROTOCOL_ICMP 1 /* IANA protocol numbers */
#define PROTOCOL_IPV4 4
#define PROTOCOL_TCP 6
#define PROTOCOL_UDP 17
#define PROTOCOL_IPV6 41
#define PROTOCOL_GRE 47
#define PROTOCOL_AH 51
#define PROTOCOL_ICMPV6 58
#define PROTOCOL_SCTP 132
#define PROTOCOL_UDPLITE 136

#define IPV6_HOP_BY_HOP 0 /* RFC 8200 section 4 and IANA's list of extension headers */
#define IPV6_ROUTING 43
#define IPV6_FRAGMENT 44
#define IPV6_AUTHENTICATION 51
#define IPV6_DESTINATION 60
#define IPV6_NONE 59
#define IPV6_MOBILITY 135
#define IPV6_HIP 139
#define IPV6_SHIM6 140

#define GRE_CHECKSUM 0x8000
#define GRE_KEY 0x2000
#define GRE_SEQUENCE 0x1000
#define GRE_RESERVED 0x4C00 /* bits 1, 4 and 5: a packet with any of them is to be discarded */
#define GRE_VERSION 0x0007

#define MAX_VLAN_TAGS 2
#define MAX_EXTENSION_HEADERS 8
#define VLAN_PRESENT 0x1000

#define MIN_ICMP 8
#define MIN_TCP 20
#define MIN_UDP 8
#define MIN_FRAGMENT 8 /* bytes behind the IP header: a fragment's offset counts in eights */
#define MIN_SCTP 12

/* IEEE 802.2 with SNAP, RFC 1042 */
struct snap_header {
	u8 dsap;
	u8 ssap;
	u8 control;
	u8 oui[3];
	__be16 type;
};

/* RFC 2516 section 4, and the PPP protocol behind it */
struct pppoe_header {
	u8 version_type;
	u8 code;
	__be16 session;
	__be16 length;
	__be16 protocol;
};

struct vlan_header {
	__be16 tci;
	__be16 next;
};

/* RFC 791 section 3.1 */
struct ipv4_header {
	u8 version_ihl;
	u8 tos;
	__be16 total_length;
	__be16 id;
	__be16 fragment; /* 3 bits of flags, 13 bits of offset */
	u8 ttl;
	u8 protocol;
	__be16 checksum;
	__be32 src;
	__be32 dst;
};

/* RFC 8200 section 3 */
struct ipv6_header {
	u8 version_class;
	u8 class_label[3];
	__be16 payload_length;
	u8 next;
	u8 hop_limit;
	u64 src[2];
	u64 dst[2];
};

/* What all extension headers begin with; `fragment` is a fragment header's (RFC 8200 section 4.5) */
struct extension_header {
	u8 next;
	u8 length;
	__be16 fragment;
};

/* RFC 768 */
struct udp_header {
	__be32 ports;
	__be16 length;
	__be16 checksum;
};

/* RFC 9293 section 3.1, as far as it matters */
struct tcp_header {
	__be32 ports;
	__be32 sequence;
	__be32 acknowledgement;
	u8 data_offset; /* in the upper four bits */
	u8 rest[7];
};

#define TCP_FIN 0x01 /* RFC 9293 section 3.1, in the first byte of `rest` */
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

static __always_inline bool is_vlan(u16 ethertype)
{
	return ethertype == htons(ETHERTYPE_8021Q) || ethertype == htons(ETHERTYPE_8021AD) ||
	       ethertype == htons(ETHERTYPE_QINQ);
}

/* Whether NEXT is a header between the fixed one of IPv6 and the transport header */
static __always_inline bool is_extension(u64 next)
{
	switch (next) {
	case IPV6_HOP_BY_HOP:
	case IPV6_ROUTING:
	case IPV6_FRAGMENT:
	case IPV6_AUTHENTICATION:
	case IPV6_DESTINATION:
	case IPV6_MOBILITY:
	case IPV6_HIP:
	case IPV6_SHIM6:
		return true;
	}
	return false;
}

/* Headers that are a protocol of their own where nothing follows them. */
static __always_inline bool may_be_last(u64 next)
{
	return next == IPV6_MOBILITY || next == IPV6_HIP || next == IPV6_SHIM6;
}

/* Of such a header, by what its second byte says; bytes (RFC 8200 section 4, RFC 4302 section 2.2) */
static __always_inline u64 extension_length(u64 header, u64 said)
{
	return header == IPV6_FRAGMENT	     ? 8 :
	       header == IPV6_AUTHENTICATION ? (said + 2) * 4 :
					       (said + 1) * 8;
}

#endif
