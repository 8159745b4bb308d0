#include "cli/doctor_device.h"

#include "base/err.h"
#include "config/config.h"
#include "program/device.h"

#include <stdio.h>

/* NULL with a message. */
static const sl_device *look(void) {
    const sl_device *d;
    sl_config c;
    sl_config_defaults(&c);
    c.device = SL_DEVICE_CUDA;
    return sl_device_of(&c, &d) ? NULL : d;
}

void sl_doctor_print_devices(void) {
    const sl_device *d = look();
    sl_device_info info;
    if (!d)
        printf("gpu        none: %s\n", sl_error());
    for (int i = 0; d && d->info(i, &info) == 0; i++) {
        printf("gpu        %s, %.1f GiB, %.1f free; %s\n", info.name, (double)info.total / (1 << 30),
               (double)info.free / (1 << 30), info.detail);
        if (i == 0)
            printf("           products %.0f GFLOP/s in bf16, %.0f in fp32; memory %.0f GB/s\n", d->gflops(true),
                   d->gflops(false), d->bandwidth());
    }
}

json_t *sl_doctor_devices_json(void) {
    const sl_device *d = look();
    sl_device_info info;
    json_t *o = json_object(), *list = json_array();
    if (!d)
        json_object_set_new(o, "no_device", json_string(sl_error()));
    for (int i = 0; d && d->info(i, &info) == 0; i++) {
        json_t *one = json_pack("{s:s, s:s, s:s, s:I, s:I}", "device", d->key, "name", info.name, "detail", info.detail,
                                "memory_bytes", (json_int_t)info.total, "memory_free_bytes", (json_int_t)info.free);
        if (i == 0)
            json_object_update_new(one, json_pack("{s:f, s:f, s:f}", "bf16_gflops", d->gflops(true), "fp32_gflops",
                                                  d->gflops(false), "bandwidth_gb_s", d->bandwidth()));
        json_array_append_new(list, one);
    }
    json_object_set_new(o, "devices", list);
    return o;
}
