#include <stdio.h>

int
main(void)
{
    puts("fluxgate " FLUXGATE_VERSION);
    return 0;
}
