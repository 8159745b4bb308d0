/* Unicode's normalization form C (UAX 15), of the version of Unicode that the tokenizers library normalizes with
 * (unicode_nfc.inc), whatever a machine's libraries know: ids must not depend on a distribution. Characters that are
 * younger stay as they are. */
#ifndef SL_DATA_NFC_H
#define SL_DATA_NFC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Room that grows and is used again; zeroed at first. */
typedef struct {
    char *text;
    size_t n, capacity;
    uint64_t *chars; /* of a stretch that is being normalized */
    size_t chars_capacity;
} sl_nfc_room;

/* Whether the text is normalized as it stands. May say no of some that are. Any bytes are legal. */
bool sl_nfc_is_done(const char *text, size_t n);
/* The normalized text, room->text of room->n bytes until the next call. A byte that is no part of valid UTF-8 stays
 * and is a border to what stands beside it. Time is that of sorting the marks on a character. */
int sl_nfc(sl_nfc_room *room, const char *text, size_t n);
void sl_nfc_room_free(sl_nfc_room *room);

#endif
