/* TensorBoard's event files, written. The file is TFRecords (https://www.tensorflow.org/tutorials/load_data/tfrecord,
 * "TFRecords format details"): the payload's length (u64), its masked CRC-32C (u32), the payload, its masked CRC-32C
 * (u32), all little-endian; the mask of c is (c rotated right by 15 bits) + 0xa282ead8. A payload is an Event of
 * TensorFlow's core/util/event.proto, whose values are those of core/framework/summary.proto:
 *   Event {1: double wall_time, 2: int64 step, 3: string file_version, 5: Summary, 7: SessionLog}
 *   Summary {1: Value {1: string tag, 2: float simple_value}}, SessionLog {1: enum status, of which 1 is START}.
 * Readers stop at a record that is cut off, so that what a killed process leaves does no harm. */
#ifndef SL_IO_TFEVENTS_H
#define SL_IO_TFEVENTS_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { SL_TFEVENTS_TAG = 100 }; /* characters of a tag at most */

/* CRC-32C (Castagnoli, as of RFC 3720 B.4) of n bytes. */
uint32_t sl_crc32c(const void *p, size_t n);

/* Both write to f without flushing it; wall_time in seconds since 1970. -1 without a message, but errno, where f cannot
 * be written. */
/* The head of a file: its version, and that a session starts at `step`: readers forget what files before this one have
 * of that step and later ones. */
int sl_tfevents_begin(FILE *f, double wall_time, int64_t step);
/* One scalar. The tag is UTF-8; longer ones are cut off at SL_TFEVENTS_TAG bytes. */
int sl_tfevents_scalar(FILE *f, double wall_time, int64_t step, const char *tag, float value);

#endif
