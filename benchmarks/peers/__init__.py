"""What fffnb is compared with: plain, short implementations, checked like our own."""
