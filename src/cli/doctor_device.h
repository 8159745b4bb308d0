/* doctor's word on devices other than the CPU. */
#ifndef SL_CLI_DOCTOR_DEVICE_H
#define SL_CLI_DOCTOR_DEVICE_H

#include <jansson.h>

/* Lines of what there is, measured, or why there is nothing. */
void sl_doctor_print_devices(void);
/* {"devices": [{name, detail, memory_bytes, ...}]} or {"devices": [], "no_device": "why"}; rates of the first one. */
json_t *sl_doctor_devices_json(void);

#endif
