/* SPDX-License-Identifier: GPL-2.0-only */
/* Where a packet carries its number: at an offset, or behind a pattern that is looked for. */

#define MAX_REACH 0xF000 /* the verifier grants direct access up to an offset of 0xFFFF */

#if SEQ_NUMBERS && SEQ_SEARCH

#define SEARCHED 5000 /* bytes of payload */
#define CHUNK 512
#define NOWHERE (1ULL << 32)
#define EACH_BYTE 0x0101010101010101ULL

struct scratch {
	u8 bytes[CHUNK + 16];
	u64 at, length;	 /* of the payload */
	u64 start, size; /* of what is in `bytes`, within the payload */
	u64 word;	 /* place in `bytes` */
};
BPF_PERCPU_ARRAY(scratches, struct scratch, 1);

/* Not 0 where a byte of the word at AT is the pattern's anchor (the classic test for a zero byte) */
#define ANCHORED(s, at)                                                                            \
	({                                                                                         \
		u64 w_ = *(u64 *)((s)->bytes + (at) + SEQ_ANCHOR_AT) ^ (SEQ_ANCHOR * EACH_BYTE);   \
		(w_ - EACH_BYTE) & ~w_ & (EACH_BYTE << 7);                                         \
	})

/* 1 where the pattern stands at AT, without a jump */
#define MATCHED(s, at) (((u64)(*(u32 *)((s)->bytes + (at)) ^ (u32)SEQ_PATTERN) - 1) >> 63)

/*
 * Where the pattern first stands in the payload, or NOWHERE. The packet is copied in chunks, wherever
 * its bytes lie in memory; 32 places are tried at a time, by one byte of the pattern, and only where
 * that one is the whole pattern is compared. What was found is handed on through memory, else the
 * verifier would go through all that follows once for every place.
 */
static __always_inline u64 find_pattern(struct context *ctx, u64 at, u64 length)
{
	volatile struct scratch *found;
	u64 start, size, i, j;
	struct scratch *s;
	u32 zero = 0;

	s = scratches.lookup(&zero);
	if (!s)
		return NOWHERE;
	found = s;
	if (length > SEARCHED)
		length = SEARCHED;
	found->at = at;
	found->length = length;
	for (start = 0; start < SEARCHED; start += CHUNK) {
		if (start + 4 > found->length)
			return NOWHERE;
		size = found->length - start;
		if (size > CHUNK + 3)
			size = CHUNK + 3;
		found->size = size;
		size = found->size;
		if (size < 4)
			return NOWHERE;
		asm volatile("" : "+r"(size)); /* two comparisons: from one, 6.1 learns no bounds */
		if (size > CHUNK + 3)
			return NOWHERE;
		if (load_bytes(ctx, found->at + start, s->bytes, size))
			return NOWHERE;
		found->start = start;
		for (i = 0; i < CHUNK; i += 32) {
			if (i >= found->size)
				return NOWHERE;
			if (likely(!(ANCHORED(s, i) | ANCHORED(s, i + 8) | ANCHORED(s, i + 16) |
				     ANCHORED(s, i + 24))))
				continue;
#pragma unroll
			for (j = i; j < i + 32; j += 8) {
				if (ANCHORED(s, j) &&
				    (MATCHED(s, j) | MATCHED(s, j + 1) | MATCHED(s, j + 2) |
				     MATCHED(s, j + 3) | MATCHED(s, j + 4) | MATCHED(s, j + 5) |
				     MATCHED(s, j + 6) | MATCHED(s, j + 7))) {
					found->word = j;
					goto out;
				}
			}
		}
	}
	return NOWHERE;
out:
	j = found->word;
	for (i = 0; i < 7; i++, j++) {
		if (j >= CHUNK || MATCHED(s, j))
			break;
	}
	found->word = j;
	if (found->word + 4 > found->size) /* behind its bytes are those of an older packet */
		return NOWHERE;
	return found->start + found->word;
}

#endif

#if SEQ_BITS == 16
typedef u16 carried;
#define BIG_ENDIAN(number) __builtin_bswap16(number)
#elif SEQ_BITS == 64
typedef u64 carried;
#define BIG_ENDIAN(number) __builtin_bswap64(number)
#else
typedef u32 carried;
#define BIG_ENDIAN(number) __builtin_bswap32(number)
#endif

static __always_inline void note_number(struct packet *p, carried number)
{
	p->number = SEQ_LITTLE_ENDIAN ? number : BIG_ENDIAN(number);
	p->has_number = 1;
}

/* The number that P's payload carries: of UDP and ICMP; of a merged packet, that of the first. */
static __always_inline void read_number(struct context *ctx, struct packet *p)
{
	u64 at = SEQ_OFFSET;
	carried number;

	p->has_number = 0;
	if (!SEQ_NUMBERS || !p->numbered || p->numbered == PROTOCOL_TCP)
		return;
#if SEQ_NUMBERS && SEQ_SEARCH
	at += find_pattern(ctx, p->payload_at, p->payload);
#endif
	if (at + sizeof(number) > p->payload)
		return;
	at += p->payload_at;
#if !SEQ_SEARCH && DIRECT_ACCESS
	if (at <= MAX_REACH) {
		if (!peek(ctx, true, at, number))
			note_number(p, number);
		return;
	}
#endif
	if (!load_bytes(ctx, at, &number, sizeof(number)))
		note_number(p, number);
}
